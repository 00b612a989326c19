"""Train and prune networks in a built-in loop that can be resumed after every epoch."""

from secateur.training.fit import fit
from secateur.training.methods import METHODS, Method, method_named, method_names
from secateur.training.progress import LiveProgress, PlainProgress, Progress, SilentProgress, for_console
from secateur.training.recipe import Recipe
from secateur.training.recovery import recover
from secateur.training.run import Run, evaluate, load_run

__all__ = [
    "METHODS",
    "LiveProgress",
    "Method",
    "PlainProgress",
    "Progress",
    "Recipe",
    "Run",
    "SilentProgress",
    "evaluate",
    "fit",
    "for_console",
    "load_run",
    "method_named",
    "method_names",
    "recover",
]
