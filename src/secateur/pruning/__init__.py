"""Decide what goes, hold it out, remove it physically."""

from secateur.pruning.compaction import CompactionWarning, compact
from secateur.pruning.masks import apply_masks, masks_of, output_layer, prune
from secateur.pruning.ranking import LayerRow, Report, reduce
from secateur.pruning.schedule import Schedule

__all__ = [
    "CompactionWarning",
    "LayerRow",
    "Report",
    "Schedule",
    "apply_masks",
    "compact",
    "masks_of",
    "output_layer",
    "prune",
    "reduce",
]
