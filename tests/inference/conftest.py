"""Fixtures of every optimiser and of small networks to train."""

from support.optimizers import any_task, build, make_task

__all__ = ["any_task", "build", "make_task"]
