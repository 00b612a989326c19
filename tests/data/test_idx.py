"""IDX files: right ones are read, wrong ones are named."""

import pytest

from secateur.data.idx import parse_idx
from secateur.errors import DataError


def test_axes_in_order():
    array = parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]), name="a")
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "a.idx: expected an IDX file"),
        (b"\x1f\x8b\x08\x00rest", "a.idx: expected an IDX file of unsigned bytes, got one starting 1f8b0800"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "a.idx: expected an IDX file of unsigned bytes"),
        (b"\x00\x00\x08\x03\x00\x00", "a.idx: expected a header of 16 bytes, got 6"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", r"a.idx: expected 5 bytes for shape \(5,\), got 3"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02abc", r"a.idx: expected 2 bytes for shape \(2,\), got 3"),
    ],
)
def test_damaged_files_are_named(content, says):
    with pytest.raises(DataError, match=says):
        parse_idx(content, name="a.idx")
