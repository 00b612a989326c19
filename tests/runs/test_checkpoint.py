"""Nested state comes back from a file as it was, without pickle; any altered byte is noticed."""

import math
import os
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import ArtifactError
from secateur.runs.checkpoint import load_nested, save_nested, tensors_checksum

STATE = {
    "weights": {"a.weight": torch.arange(6.0).view(2, 3), "empty": torch.zeros(0)},
    "lists": [[1, 2.5, None, True, "text"], [torch.tensor(3)]],
    7: {0: torch.tensor([True, False]), 1: torch.tensor(0.1, dtype=torch.bfloat16)},
    "best": math.inf,
    "exact": 0.1 + 0.2,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_round_trip(tmp_path):
    save_nested(tmp_path / "x", STATE)
    assert same(load_nested(tmp_path / "x"), STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_views_and_shared_memory_are_written_apart(tmp_path):
    whole = torch.arange(10.0)
    save_nested(tmp_path / "x", {"whole": whole, "part": whole[2:4], "turned": whole.view(2, 5).T})
    read = load_nested(tmp_path / "x")
    assert torch.equal(read["part"], whole[2:4])
    assert torch.equal(read["turned"], whole.view(2, 5).T)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "x"
    save_nested(path, STATE)
    return path, path.read_bytes()


@given(data=st.data())
def test_no_altered_byte_passes(written, data):
    path, content = written
    position = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != content[position]))
    path.write_bytes(content[:position] + bytes([value]) + content[position + 1 :])
    try:
        read = load_nested(path)
    except ArtifactError as error:
        message = str(error)
    else:
        assert same(read, STATE)  # white space of the header
        return
    assert "expected" in message
    assert "\n" not in message


@given(length=st.integers(0, 400))
def test_no_truncated_file_passes(written, length):
    path, content = written
    path.write_bytes(content[: min(length, len(content) - 1)])
    with pytest.raises(ArtifactError, match="expected a"):
        load_nested(path)


def test_a_changed_type_is_noticed(tmp_path):
    save_nested(tmp_path / "x", {"weight": torch.ones(2, 3)})
    content = (tmp_path / "x").read_bytes()
    assert content.count(b'"F32"') == 1
    (tmp_path / "x").write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(ArtifactError, match="another checksum"):
        load_nested(tmp_path / "x")


def test_a_checkpoint_of_the_first_format_is_refused(tmp_path):
    from safetensors.torch import save_file

    metadata = {"format": "secateur-checkpoint-1", "skeleton": "{}", "checksum": "00000000"}
    save_file({"0": torch.zeros(1)}, tmp_path / "x", metadata)
    with pytest.raises(
        ArtifactError, match="got 'secateur-checkpoint-1'; remove the file to begin the run again"
    ):
        load_nested(tmp_path / "x")


def test_what_is_no_checkpoint(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ArtifactError, match="expected a checkpoint"):
        load_nested(tmp_path / "other")
    with pytest.raises(ArtifactError, match="expected a readable checkpoint"):
        load_nested(tmp_path / "none")


def test_a_pipe_is_no_checkpoint_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ArtifactError, match="not an ordinary file"):
        load_nested(tmp_path / "x")


def test_of_tensors_that_differ_in_one_thing() -> None:
    ones = torch.ones(2, 3)
    different = [
        {"a": ones},
        {"b": ones},
        {"a": ones.view(torch.int32)},
        {"a": ones.view(torch.uint8)},
        {"a": ones.reshape(3, 2)},
        {"a": ones.reshape(6)},
        {"a": ones.reshape(6, 1)},
        {"a": 2 * ones},
        {"a": ones, "b": ones},
        {"a": ones[:1], "b": ones[1:]},
        {"a": torch.zeros(0)},
        {"a": torch.zeros(0, 2)},
        {"a": torch.zeros(0, dtype=torch.float64)},
        {"a": torch.tensor(0.0)},
        {"a": torch.tensor(-0.0)},
        {"a": torch.tensor(False)},
        {"a' torch.float32 [0]\n'b": torch.zeros(0)},
        {"a": torch.zeros(0), "b": torch.zeros(0)},
        {},
    ]
    checksums = [tensors_checksum(tensors) for tensors in different]
    checksums += [tensors_checksum({}, text=text) for text in ("a", "b")]
    for first, second in combinations(checksums, 2):
        assert first != second


def test_it_depends_on_nothing_else() -> None:
    value = torch.arange(6.0).reshape(2, 3)
    same = [{"a": value, "b": value.T}, {"b": value.T.contiguous(), "a": nn_parameter(value)}]
    first, second = map(tensors_checksum, same)
    assert first == second
    # Of the bytes as they are written down: another machine finds the same.
    assert tensors_checksum({"a": torch.tensor([1.0, -2.0])}) == (
        "b1a11dcbd5828aa17eeea18c302eda0abb17af4bb43f400e2b09e0b9fe14b055"
    )


def nn_parameter(value: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(value)
