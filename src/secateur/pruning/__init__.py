"""Decide what goes, hold it out, remove it physically."""

from secateur.pruning.ranking import LayerRow, Report, reduce
from secateur.pruning.schedule import Schedule

__all__ = ["LayerRow", "Report", "Schedule", "reduce"]
