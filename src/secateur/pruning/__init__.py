"""Decide what goes, hold it out, remove it physically."""

from secateur.compaction import CompactionWarning, compact
from secateur.pruning.decision import LayerRow, Report
from secateur.pruning.finishing import FinishingReport, FinishingRound, finish_structured
from secateur.pruning.masks import apply_masks, masks_of, output_layer, output_parameters, prune
from secateur.pruning.ranking import reduce
from secateur.pruning.schedule import Schedule

__all__ = [
    "CompactionWarning",
    "FinishingReport",
    "FinishingRound",
    "LayerRow",
    "Report",
    "Schedule",
    "apply_masks",
    "compact",
    "finish_structured",
    "masks_of",
    "output_layer",
    "output_parameters",
    "prune",
    "reduce",
]
