"""The recorder: what a graph keeps of a network's code, and what it does not take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.compaction.graphs import trace, traced_module
from secateur.compaction.tracing import UntraceableError


class Written(nn.Module):
    """A network whose forward is a function of itself and x."""

    def __init__(self, code: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.code, self.linear, self.heads = code, nn.Linear(6, 6), 2
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Any:
        return self.code(self, self.linear(x))


SOUND: dict[str, Callable[[Any, Tensor], Any]] = {
    "operators": lambda net, x: 1 - (2 / (x.abs() + 1)) ** 2 @ net.linear.weight + net.scale,
    "sizes": lambda net, x: x.view(x.shape[0] * net.heads, -1).reshape(x.size(0), x.size(1) // 2 * 2),
    "len": lambda net, x: x.view(len(x), net.heads, 3).flatten(1),
    "in place": lambda net, x: x.clone().add_(1).mul_(net.scale),
    "same tensor": lambda net, x: x + x.contiguous() * x.view(x.shape).to(x.dtype),
    "parts": lambda net, x: torch.cat([p * n for n, p in enumerate(x.chunk(2, -1))], -1) + x.max(-1, True)[0],
    "made": lambda net, x: x + torch.arange(x.shape[1], dtype=x.dtype, device=x.device) + x.new_ones(x.shape),
    "nest": lambda net, x: {"a": x, "b": [x.T, (x.sum(),)]},
    "answers about shapes": lambda net, x: x if len(x) and x.is_floating_point() and x.ndim == 2 else -x,
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_traced_module_gives_the_same_for_any_batch(name: str) -> None:
    model = Written(SOUND[name]).double()
    graph = traced_module(model, torch.randn(3, 6, dtype=torch.float64))
    for batch in (1, 3, 5):
        x = torch.randn(batch, 6, dtype=torch.float64)
        torch.testing.assert_close(graph(x), model(x), rtol=1e-12, atol=1e-12)
    assert model.heads == 2
    assert type(model.heads) is int
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (lambda net, x: x if x.sum() > 0 else -x, "truth of gt"),
        (lambda net, x: x * x.sum().item(), "value of sum"),
        (lambda net, x: x + torch.from_numpy(x.numpy()), "value of linear"),
        (lambda net, x: x * float(net.scale), "value of scale"),
    ],
)
def test_questions_about_data_are_not_answered(code: Callable[[Any, Tensor], Any], what: str) -> None:
    with pytest.raises(UntraceableError, match=f"{what}.*depends on the data"):
        trace(Written(code), torch.randn(3, 6))


def part_written(net: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 0
    return x


class Answer:
    """What a network may answer with."""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (part_written, "writes into parts"),
        (lambda net, x: torch.vmap(torch.sin)(x), "from where no torch function was seen"),
        (lambda net, x: (x, Answer()), "returns a tuple"),
    ],
)
def test_what_a_graph_cannot_do_is_said(code: Callable[[Any, Tensor], Any], reason: str) -> None:
    with pytest.raises(UntraceableError, match=reason):
        traced_module(Written(code), torch.randn(3, 6))


def test_an_error_of_the_network_leaves_it_as_it_was() -> None:
    model = Written(lambda net, x: x @ x)
    with pytest.raises(UntraceableError, match="mat1 and mat2"):
        trace(model, torch.randn(3, 6))
    assert all("forward" not in vars(module) for module in model.modules())
