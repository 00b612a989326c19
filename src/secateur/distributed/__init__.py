"""Several processes as one: what is summed, averaged, compared and decided over the ranks of a group.

Where no process group is initialised, or one of a single rank, every function here returns at once. In a
group all ranks must make the same calls. Each exchange says first whether a rank has failed: so a rank that
fails inside `together` ends all of them with its message, and none waits for it for ever.

Data are dealt to ranks like cards, as `DistributedSampler` does: of a batch that all ranks have together,
datum 0 is the first of rank 0, datum 1 the first of rank 1, and so on, while a rank has any left.
"""

from secateur.distributed.group import alone, is_alone, is_initialized, launched, num_ranks, rank
from secateur.distributed.messages import averaged, facts_of, gathered, require_same, together
from secateur.distributed.share import Share
from secateur.distributed.tensors import concatenated, from_first, sum_in_place

__all__ = [
    "Share",
    "alone",
    "averaged",
    "concatenated",
    "facts_of",
    "from_first",
    "gathered",
    "is_alone",
    "is_initialized",
    "launched",
    "num_ranks",
    "rank",
    "require_same",
    "sum_in_place",
    "together",
]
