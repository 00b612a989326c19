"""Posteriors as files: back to the bit, in order, and damaged or hostile files refused in one line."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from secateur import Posterior
from secateur.errors import ArtifactError
from secateur.posterior import Dense, Diagonal, Kronecker, Rowwise
from secateur.runs import tensors_checksum


@pytest.fixture
def posterior(generator) -> Posterior:
    """A block of every structure, in an order that is not that of the names."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def curvature(*shape: int) -> torch.Tensor:
        root = random(*shape, shape[-1])
        return root @ root.mT + torch.eye(shape[-1])

    def prior(*names: str) -> dict[str, torch.Tensor]:
        return dict.fromkeys(names, torch.tensor(0.7, dtype=torch.float64))

    diagonal = Diagonal(
        "z",
        {"z.w": random(2, 3), "z.b": random(2).float()},
        {"z.w": random(2, 3).exp(), "z.b": random(2).float().exp()},
        {"z.w": random(3).exp(), "z.b": torch.tensor(2.0)},
        {"z.w": random(2, 3) > 0},
    )
    conv1d = Kronecker("c", {"c.w": random(3, 2)}, curvature(2), curvature(3), prior("c.w"), transposed=True)
    full = Rowwise("r", {"r.w": random(2, 3)}, curvature(2, 3), prior("r.w"))
    factored = Rowwise.factored("f", {"f.w": random(2, 3)}, random(2).exp(), curvature(3), prior("f.w"))
    dense = Dense("", {"gain": random(2)}, curvature(2), prior("gain"))
    return Posterior.of([diagonal, conv1d, full, factored.given({"f.w": random(2, 3) > 0}), dense])


def assert_equal(found: Posterior, expected: Posterior) -> None:
    assert list(found.mean) == list(expected.mean)
    assert list(found.blocks) == list(expected.blocks)
    for layer, block in expected.blocks.items():
        other = found.blocks[layer]
        assert type(other) is type(block)
        assert other.transposed == block.transposed
        assert other.tensors().keys() == block.tensors().keys()
        for key, tensor in block.tensors().items():
            assert other.tensors()[key].dtype == tensor.dtype
            assert torch.equal(other.tensors()[key], tensor)


def rewrite(path, *, tensors=None, **metadata: str) -> None:
    """Change a file as someone would who knows the format, its checksum included."""
    with safe_open(path, "pt") as file:
        known = file.metadata()
    held = load_file(path) | (tensors or {})
    held = {key: value for key, value in held.items() if value is not None}
    known |= metadata
    if "sha256" not in metadata:
        known["sha256"] = tensors_checksum(held, text=known["structure"])
    save_file(held, path, metadata=known)


def structure_of(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["structure"])


def assert_refused(path, message: str = "expected a readable posterior, got: ") -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        Posterior.load(path)
    assert "\n" not in str(caught.value)


def test_round_trip_to_the_bit(posterior, tmp_path):
    path = tmp_path / "posterior.safetensors"
    posterior.save(path)
    assert_equal(Posterior.load(path), posterior)
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_of_draws_survives(posterior, tmp_path):
    """A file of tensors has an order of its own; draws follow that of the parameters."""
    posterior.save(tmp_path / "p")
    again = Posterior.load(tmp_path / "p")
    first, second = (each.sample(generator=torch.Generator().manual_seed(5)) for each in (posterior, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_views_of_one_vector_and_one_shared_prior_are_saved(tmp_path):
    """As an optimiser's posterior comes: parameters are views, the prior one scalar for all."""
    vector, prior = torch.arange(6.0), torch.tensor(2.0)
    mean = {"a": vector[:4].view(2, 2).T, "b": vector[4:]}
    posterior = Posterior(mean, {n: v.square() + 1 for n, v in mean.items()}, dict.fromkeys(mean, prior))
    posterior.save(str(tmp_path / "p"))
    assert_equal(Posterior.load(str(tmp_path / "p")), posterior)


def first_format(posterior: Posterior) -> dict[str, torch.Tensor]:
    return {
        f"{kind}/{name}": tensor.contiguous().clone()
        for kind in ("mean", "precision", "prior_precision", "keep")
        for name, tensor in getattr(posterior, kind).items()
    }


@pytest.fixture
def independent(posterior) -> Posterior:
    return Posterior.of([posterior.blocks["z"]])


def test_files_of_the_first_format_are_read(independent, tmp_path):
    path = tmp_path / "old.safetensors"
    save_file(first_format(independent), path, metadata={"format": "secateur-posterior-1"})
    found = Posterior.load(path)
    for kind in ("mean", "precision", "prior_precision", "keep"):
        ours, theirs = getattr(found, kind), getattr(independent, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_damaged_files_of_the_first_format_are_refused(independent, tmp_path):
    path = tmp_path / "old.safetensors"
    tensors = first_format(independent)
    for damaged in (
        {name: value for name, value in tensors.items() if name != "precision/z.b"},
        {name: value for name, value in tensors.items() if name != "mean/z.b"},
        tensors | {"variance/z.b": torch.ones(2)},
        tensors | {"mean/z.b": torch.ones(7)},
        tensors | {"precision/z.b": -torch.ones(2)},
    ):
        save_file(damaged, path, metadata={"format": "secateur-posterior-1"})
        assert_refused(path)


def test_a_truncated_file_is_refused(posterior, tmp_path):
    path = tmp_path / "posterior.safetensors"
    posterior.save(path)
    content = path.read_bytes()
    for length in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert_refused(path, r"posterior\.safetensors: expected a readable posterior")


def test_every_altered_byte_is_noticed(posterior, tmp_path):
    """In tensors, names, types, shapes, structure or checksum: one byte of every eleven, in three ways."""
    path = tmp_path / "p"
    posterior.save(path)
    content = path.read_bytes()
    for place in range(0, len(content), 11):
        for change in (0x01, 0x20, 0xFF):
            altered = bytearray(content)
            altered[place] ^= change
            path.write_bytes(altered)
            if content[place] in b" " or altered[place] in b" ":  # white space pads the header
                continue
            assert_refused(path, r"p: expected a (readable )?posterior")


def test_a_type_that_was_changed_by_a_byte_is_noticed(tmp_path):
    """F64 to I64 has the same bytes and the same length; so has F32 to I32."""
    ones = {"w": torch.ones(3)}
    Posterior(ones, ones, ones).save(tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    assert content.count(b'"F32"') == 3
    (tmp_path / "p").write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    assert_refused(tmp_path / "p", "a checksum of")


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("0/precision/z.w", None),
        ("0/mean/z.b", None),
        ("0/variance/z.w", torch.ones(2, 3)),
        ("0/extra", torch.ones(1)),
        ("0/keep/z.w", torch.ones(2, 3)),
        ("0/mean/z.w", torch.ones(3, 2)),
        ("0/mean/z.w", torch.full((2, 3), torch.nan)),
        ("0/precision/z.w", -torch.ones(2, 3)),
        ("0/precision/z.w", torch.ones(2, 3, dtype=torch.int64)),
        ("1/row_curvature", torch.ones(3, 3)),
        ("1/column_curvature", None),
        ("1/prior_precision/c.w", torch.tensor([1.0, 2.0])),
        ("2/row_precision", torch.ones(2, 2, 2)),
        ("3/row_scale", torch.ones(5)),
        ("3/row_scale", -torch.ones(2)),
        ("4/joint_precision", torch.tensor([[1.0, 9.0], [0.0, 1.0]])),
        ("5/mean/w", torch.ones(1)),
        ("x/mean/w", torch.ones(1)),
        ("-1/mean/w", torch.ones(1)),
        ("mean/w", torch.ones(1)),
    ],
)
def test_tensors_that_do_not_belong_are_refused(key, tensor, posterior, tmp_path):
    posterior.save(tmp_path / "p")
    rewrite(tmp_path / "p", tensors={key: tensor})
    assert_refused(tmp_path / "p")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {"names": s["names"][:-1]},
        lambda s: s | {"names": [*s["names"], "other"]},
        lambda s: s | {"names": [*s["names"][:-1], s["names"][0]]},
        lambda s: s | {"names": [3] * len(s["names"])},
        lambda s: s | {"names": "abc"},
        lambda s: s | {"more": 1},
        lambda s: {"names": s["names"]},
        lambda s: s | {"blocks": s["blocks"][:-1]},
        lambda s: s | {"blocks": [*s["blocks"], s["blocks"][0]]},
        lambda s: s | {"blocks": [{**b, "kind": "matrix"} for b in s["blocks"]]},
        lambda s: s | {"blocks": [{**b, "kind": "dense"} for b in s["blocks"]]},
        lambda s: s | {"blocks": [{**b, "kind": ["dense"]} for b in s["blocks"]]},
        lambda s: s | {"blocks": [{**b, "layer": "same"} for b in s["blocks"]]},
        lambda s: s | {"blocks": [{**b, "transposed": 1} for b in s["blocks"]]},
        lambda s: s | {"blocks": [{**b, "transposed": not b["transposed"]} for b in s["blocks"]]},
        lambda s: s | {"blocks": [{**b, "more": 1} for b in s["blocks"]]},
        lambda s: s | {"blocks": list(range(len(s["blocks"])))},
        lambda s: [s],
        lambda s: None,
    ],
)
def test_a_structure_that_makes_no_sense_is_refused(change, posterior, tmp_path):
    posterior.save(tmp_path / "p")
    rewrite(tmp_path / "p", structure=json.dumps(change(structure_of(tmp_path / "p"))))
    assert_refused(tmp_path / "p")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"names": NaN}', "9" * 5000])
def test_a_structure_that_is_no_json_is_refused(text, posterior, tmp_path):
    posterior.save(tmp_path / "p")
    rewrite(tmp_path / "p", structure=text)
    assert_refused(tmp_path / "p")


def test_another_checksum_or_more_metadata_is_refused(posterior, tmp_path):
    posterior.save(tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    rewrite(tmp_path / "p", sha256="0" * 64)
    assert_refused(tmp_path / "p", "a checksum of")
    (tmp_path / "p").write_bytes(content)
    rewrite(tmp_path / "p", author="someone")
    assert_refused(tmp_path / "p", "metadata of other names")


@pytest.mark.parametrize("shape", [[2**40, 2**40], [2**62], [2**63], [-1, 3], [2**40, 0]])
def test_giant_shapes_are_refused_and_not_allocated(shape, posterior, tmp_path):
    posterior.save(tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["0/mean/z.w"]["shape"] = shape
    text = json.dumps(header).encode()
    (tmp_path / "p").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert_refused(tmp_path / "p")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    assert_refused(path, r"other\.safetensors")
    save_file({"x": torch.ones(2)}, path)
    assert_refused(path, r"expected a posterior .* got format None")
    path.write_text("not a file of tensors, but long enough to have a header")
    assert_refused(path)
    path.unlink()
    path.mkdir()
    assert_refused(path)


def test_a_place_that_cannot_be_written_is_named_and_the_old_file_stays(posterior, tmp_path):
    with pytest.raises(ArtifactError, match="expected to write it"):
        posterior.save(tmp_path / "missing" / "p.safetensors")
    occupied = tmp_path / "occupied"
    (occupied / "inside").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="occupied: expected to write it"):
        posterior.save(occupied)
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]
