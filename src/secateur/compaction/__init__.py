"""Physical removal: a masked network becomes a smaller one with the same outputs, of the same class.

`tracing` records a graph; `flow` (with one rule per operator in `rules`, and `slots` for what must go
together) finds constants and who reads what; `decide` chooses; `sizes` asks whether the network's own code
suits fewer units; `rewrite` slices. Own code rather than torch-pruning's dependency graph, because coupling
is the smaller half of the task: that graph knows which channels go together, not what a removed one still
contributes.
"""

from secateur.compaction.compact import CompactionWarning, compact
from secateur.compaction.plain import plain_copy
from secateur.compaction.resize import changed_widths, resize_like
from secateur.compaction.units import find_units

__all__ = ["CompactionWarning", "changed_widths", "compact", "find_units", "plain_copy", "resize_like"]
