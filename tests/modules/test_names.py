"""Parameters by layer and pattern, and the layer that makes the outputs."""

import pytest
import torch
from torch import nn

from secateur.errors import InvalidArgumentError
from secateur.modules import by_layer, chosen, matching, output_layer, output_parameters, prunable_exclude
from support.networks import Attention, Recurrent, Tied, bert, gpt2, mlp

NAMES = [name for name, _ in mlp().named_parameters()]


def test_exclude_wins_over_include() -> None:
    assert chosen("0.weight", None, None)
    assert chosen("0.weight", ["0.*"], None)
    assert not chosen("0.weight", ["2.*"], None)
    assert not chosen("0.weight", ["0.*"], ["*.weight"])
    assert not chosen("0.Weight", ["*.weight"], None)  # names are case-sensitive on every system


def test_matching_keeps_the_order_of_names() -> None:
    assert matching(NAMES, None, None) == NAMES
    assert matching(NAMES, ["4.*", "0.*"], ["*.bias"]) == ["0.weight", "4.weight"]


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (
            ["0.*", "7.*"],
            None,
            r"include: expected patterns of .*, got '7\.\*', which matches none",
        ),
        (None, ["bias"], "exclude: expected patterns of parameter names, got 'bias', which matches none"),
        ("0.*", None, r"include: expected a list of patterns, got '0\.\*'"),
        (None, "0.*", r"exclude: expected a list of patterns, got '0\.\*'"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(include, exclude, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        matching(NAMES, include, exclude)
    assert "\n" not in str(caught.value)


def test_the_message_is_short_for_many_names() -> None:
    with pytest.raises(InvalidArgumentError, match=r"layer\.7, \.\.\. \(1000 names\)$"):
        matching([f"layer.{number}" for number in range(1000)], ["head"], None)


def test_layers_keep_their_parameters_together() -> None:
    assert by_layer(["a.weight", "b.c.weight", "gain", "a.bias"]) == {
        "a": ("a.weight", "a.bias"),
        "b.c": ("b.c.weight",),
        "": ("gain",),
    }


def test_the_output_layer_is_the_last_with_a_matrix() -> None:
    assert output_layer(mlp()) == "4"
    assert output_layer(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == "0"
    assert output_layer(nn.Linear(2, 2)) == ""
    assert output_layer(nn.LayerNorm(2)) is None
    assert output_layer(Recurrent()) == output_layer(Attention()) == "head"
    assert output_parameters(nn.LayerNorm(2)) == []
    assert output_parameters(mlp()) == ["4.weight", "4.bias"]


def test_a_tied_output_layer_has_every_name() -> None:
    assert output_parameters(Tied()) == ["embed.weight", "head.weight"]
    assert output_parameters(gpt2()) == ["transformer.wte.weight", "lm_head.weight"]


def test_a_network_of_transformers_says_which_its_output_layer_is() -> None:
    class HeadFirst(nn.Module):
        """Its output layer is registered first."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.body = nn.Linear(4, 4)

        def get_output_embeddings(self) -> nn.Module | None:
            return self.head

    assert output_layer(HeadFirst()) == "head"
    assert output_layer(nn.ModuleDict({"inner": HeadFirst()})) == "inner.head"
    # another head on top of it is the output layer
    assert output_layer(nn.ModuleDict({"inner": HeadFirst(), "top": nn.Linear(3, 2)})) == "top"
    assert output_layer(bert()) == "classifier"  # which gives no output embeddings


def test_the_output_layer_joins_the_callers_exclusions() -> None:
    given = ["0.*"]
    assert prunable_exclude(mlp(), NAMES, None, given) == ["0.*", "4.weight", "4.bias"]
    assert given == ["0.*"]
    assert prunable_exclude(mlp(), NAMES, None, None) == ["4.weight", "4.bias"]
    assert prunable_exclude(mlp(), NAMES, ["4.*"], given) == ["0.*"]
    assert prunable_exclude(mlp(), NAMES, ["4.*"], None) is None
    assert prunable_exclude(nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2)), ["1.weight"], None, None) is None


def test_embeddings_stay_with_the_output_layer() -> None:
    """Under all names of what is tied to them, and whatever else could go."""

    def spared(model: nn.Module) -> set[str]:
        names = [name for name, _ in model.named_parameters()]
        return set(prunable_exclude(model, names, None, None) or ())

    tables = {f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")}
    assert spared(bert()) == tables | {"classifier.weight", "classifier.bias"}
    assert spared(Tied()) == {"embed.weight"}
    # where nothing but a table and the output layer is there, the output layer goes
    assert spared(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))) == {"0.weight"}
    assert spared(nn.Sequential(nn.EmbeddingBag(5, 4))) == set()


def test_names_with_brackets_are_no_patterns() -> None:
    model = nn.Module()
    model.add_module("body", nn.Linear(2, 2))
    model.add_module("head[1]", nn.Linear(2, 2))
    names = [name for name, _ in model.named_parameters()]
    exclude = prunable_exclude(model, names, None, None)
    assert matching(names, None, exclude) == ["body.weight", "body.bias"]


def test_a_meta_network_has_names() -> None:
    with torch.device("meta"):
        assert output_layer(mlp()) == "4"
