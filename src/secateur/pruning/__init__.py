"""Prune a network by evidence: decide what goes, observe it, hold it out."""

from secateur.compaction import CompactionWarning, compact
from secateur.modules import masks_of, output_layer, output_parameters
from secateur.pruning.gradual import GradualPruner, PruningWarning
from secateur.pruning.prune import prune
from secateur.pruning.ranking import reduce
from secateur.pruning.result import LayerRow, PruneResult, PruneRound
from secateur.pruning.schedule import Schedule
from secateur.pruning.trained import prune_trained

__all__ = [
    "CompactionWarning",
    "GradualPruner",
    "LayerRow",
    "PruneResult",
    "PruneRound",
    "PruningWarning",
    "Schedule",
    "compact",
    "masks_of",
    "output_layer",
    "output_parameters",
    "prune",
    "prune_trained",
    "reduce",
]
