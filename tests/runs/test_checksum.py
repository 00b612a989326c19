"""A checksum differs wherever tensors do, though their bytes may be the same."""

from itertools import combinations

import torch

from secateur.runs import tensors_checksum


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
