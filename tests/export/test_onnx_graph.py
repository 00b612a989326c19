"""ONNX graphs agree with PyTorch, average posterior samples, and say what they cannot hold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur.errors import InvalidArgumentError
from secateur.export import onnx, onnx_graph
from secateur.export.onnx_graph import onnx_session
from secateur.likelihoods import Bernoulli, Gaussian, Likelihood, Poisson
from secateur.posterior import Posterior


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    prune.random_structured(model[0], "weight", amount=4, dim=0)
    prune.random_unstructured(model[2], "weight", 0.5)
    return model


def posterior() -> Posterior:
    generator = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (8, 6), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
    mean = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    precision = {name: torch.full(shape, 4.0) for name, shape in shapes.items()}
    return Posterior(mean, precision, {name: torch.tensor(1.0) for name in shapes})


def with_weights(weights: dict[str, Tensor]) -> nn.Module:
    """Put weights under the masks, the plain way."""
    model = network()
    for index in (0, 2):
        model[index].weight_orig.data = weights[f"{index}.weight"]
        model[index].bias.data = weights[f"{index}.bias"]
    return model


def test_the_posterior_mean_is_exported_under_the_masks(tmp_path: Path) -> None:
    written = onnx(network(), tmp_path / "mean.onnx", torch.zeros(1, 6), posterior=posterior())
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    (found,) = onnx_session(written.path)((x,))
    torch.testing.assert_close(found, with_weights(posterior().mean)(x).detach())
    assert written.num_bytes == written.path.stat().st_size
    assert written.largest_difference < 1e-5


def test_the_average_of_samples_is_one_graph(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    written = onnx(
        network(),
        tmp_path / "s.onnx",
        torch.zeros(2, 6),
        posterior=posterior(),
        num_samples=3,
        generator=generator,
    )
    generator.manual_seed(2)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    samples = [with_weights(posterior().sample(generator=generator))(x).softmax(-1) for _ in range(3)]
    (found,) = onnx_session(written.path)((x,))
    torch.testing.assert_close(found, torch.stack(samples).mean(0).detach())


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), Poisson()], ids=lambda each: each.link)
def test_the_average_is_of_what_the_likelihood_expects(tmp_path: Path, likelihood: Likelihood) -> None:
    written = onnx(
        network(),
        tmp_path / "s.onnx",
        torch.zeros(2, 6),
        posterior=posterior(),
        num_samples=2,
        link=likelihood.link,
        generator=torch.Generator().manual_seed(2),
    )
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    samples = [with_weights(posterior().sample(generator=generator))(x) for _ in range(2)]
    expected = torch.stack([likelihood.mean(each) for each in samples]).mean(0).detach()
    (found,) = onnx_session(written.path)((x,))
    torch.testing.assert_close(found, expected)


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="bessel_j0"):
        onnx(Bessel(), tmp_path / "b.onnx", torch.zeros(2, 3))
    assert list(tmp_path.iterdir()) == []


class ReadsLength(nn.Module):
    """A network in whose code the batch size becomes a number."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones(1, 1).expand(len(x), -1), x], 1)


def test_a_file_for_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"any batch size, got ReadsLength.*x\.shape\[0\]"):
        onnx(ReadsLength(), tmp_path / "network.onnx", torch.randn(2, 3))
    assert not any(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InvalidArgumentError, match=r"got no onnxscript: pip install 'secateur\[export\]'"):
        onnx(network(), tmp_path / "n.onnx", torch.zeros(1, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 2}, "num_samples"),
        ({"link": "logit"}, "link: expected one of softmax"),
        (
            {"posterior": Posterior({"9.x": torch.ones(1)}, {"9.x": torch.ones(1)}, {"9.x": torch.ones(1)})},
            "9.x",
        ),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        onnx(network(), tmp_path / "n.onnx", torch.zeros(1, 6), **arguments)


class Tagger(nn.Module):
    """Classes of tokens, as a network of the Transformers library gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = True) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        cache = {"past": hidden} if use_cache else {}
        return {**cache, "logits": self.head(hidden.cumsum(1))}


def test_arguments_by_name_are_those_of_the_file(tmp_path: Path) -> None:
    """Any number of data and of tokens; the output is the logits alone."""
    model = Tagger()
    tokens = torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    file = onnx(model, tmp_path / "tagger.onnx", inputs)
    other = {"attention_mask": torch.tensor([[1, 1, 0]] * 4), "input_ids": torch.arange(12).view(4, 3) % 9}
    (found,) = onnx_session(file.path)(other)
    torch.testing.assert_close(found, model(**other)["logits"].detach())


def test_arguments_by_position_and_name_are_refused(tmp_path: Path) -> None:
    tokens = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(InvalidArgumentError, match="by position or by name, got both; give all in a dict"):
        onnx(Tagger(), tmp_path / "tagger.onnx", (tokens, {"attention_mask": tokens}))
