"""What ranks do together: sums, values of rank 0, rows one after another, and an end for all."""

from pathlib import Path

from secateur import distributed
from secateur.distributed import Share
from support.ranks import run_ranks

PROGRAM = """
import math
from secateur import distributed
from secateur.distributed import messages, tensors
from secateur.errors import InvalidArgumentError, RankError

tensors.BUCKET = 4  # several all-reduces
mine = [torch.full((3,), float(rank)), torch.full((2, 2), rank), torch.full((7,), 1.0 + rank), torch.empty(0)]
distributed.sum_in_place(mine)
assert [each.tolist() for each in mine] == [[1.0] * 3, [[1, 1], [1, 1]], [3.0] * 7, []]

flags = torch.tensor([rank == 0, True, rank == 1])
distributed.from_first([flags])
assert flags.tolist() == [True, True, False]

rows = distributed.concatenated(torch.full((rank, 2), float(rank)))
assert rows.tolist() == [[1.0, 1.0]]
try:
    distributed.concatenated(torch.zeros(1, 1 + rank))
except InvalidArgumentError as error:
    assert "expected rows of one shape, got [1] on rank 0 and [2] on another" in str(error)
else:
    raise AssertionError

assert distributed.gathered({"a": [rank, None]}) == [{"a": [0, None]}, {"a": [1, None]}]
assert distributed.averaged(float(rank)) == 0.5
assert math.isnan(distributed.averaged(math.nan if rank else 1.0))
distributed.require_same({"x": 1.0 + 1e-9 * rank, "none": None, "nan": math.nan}, advice="never")
assert distributed.Share.dealt([3, 2]).places == ((0, 2, 4) if rank == 0 else (1, 3))

if rank == 0:
    with distributed.alone():
        assert (distributed.num_ranks(), distributed.rank()) == (1, 0)
        assert distributed.is_alone() and distributed.gathered(7) == [7]

@distributed.together()
def work():
    with distributed.together():  # the inner block leaves the word to the outer one
        if rank == 1:
            raise ZeroDivisionError("nothing to divide by")
    distributed.gathered(0)

try:
    work()
except RankError as error:
    assert rank == 0 and str(error) == "rank 1: ZeroDivisionError: nothing to divide by"
except ZeroDivisionError:
    assert rank == 1
else:
    raise AssertionError
assert distributed.gathered(rank) == [0, 1]  # the group goes on

if rank == 1:
    import os
    os._exit(3)
try:
    distributed.gathered(0)
except RankError as error:
    assert "expected all 2 processes, got a broken connection" in str(error), error
    print("done")
"""


def test_two_ranks_work_and_end_together(tmp_path: Path) -> None:
    first, second = run_ranks(PROGRAM, 2, tmp_path)
    assert (first.output.strip(), second.code) == ("done", 3), first.errors


def test_without_a_group_everything_is_this_process() -> None:
    assert (distributed.num_ranks(), distributed.rank(), distributed.is_initialized()) == (1, 0, False)
    assert distributed.gathered("a") == ["a"]
    assert Share.dealt([4]).first(2) == Share((0, 1), 2)
    assert not distributed.is_alone()
