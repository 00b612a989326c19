"""Physical removal: a masked network becomes a smaller one with the same outputs.

`permanent` writes masks into weights; `tracing` makes a graph; `flow` (with one rule per operator in `rules`,
and `slots` for what must go together) finds constants and who reads what; `decide` chooses; `rewrite` builds.
Own code rather than torch-pruning's dependency graph, because coupling is the smaller half of the task: that
graph knows which channels go together, not what a removed one still contributes.
"""

from secateur.compaction.compact import CompactionWarning, compact
from secateur.compaction.permanent import permanent

__all__ = ["CompactionWarning", "compact", "permanent"]
