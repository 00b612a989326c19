"""Likelihoods by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from secateur.errors import InvalidArgumentError
from secateur.likelihoods.base import Likelihood
from secateur.likelihoods.bernoulli import Bernoulli
from secateur.likelihoods.categorical import Categorical
from secateur.likelihoods.gaussian import Gaussian
from secateur.likelihoods.poisson import Poisson

__all__ = ["ALIASES", "LIKELIHOODS", "LINKS", "resolve"]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    kind.name: kind for kind in (Categorical, Bernoulli, Gaussian, Poisson)
}
# what an exported average does to each sample's outputs: the expected target of a likelihood
LINKS: dict[str, Likelihood] = {kind.link: kind() for kind in LIKELIHOODS.values()}
ALIASES = {"cross-entropy": "categorical", "squared-error": "gaussian"}  # names of losses, from version 1


def resolve(likelihood: str | Likelihood | Mapping[str, Any]) -> Likelihood:
    """Return a likelihood from its name or description; a likelihood is returned unchanged.

    Args:
        likelihood: "categorical", "bernoulli", "gaussian", "poisson", an alias, what
            `Likelihood.describe` wrote, or a likelihood.

    Raises:
        InvalidArgumentError: If there is no such likelihood.

    >>> resolve("cross-entropy")
    Categorical(ignore_label=-100)
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    parameters: dict[str, Any] = {}
    name: Any = likelihood
    if isinstance(likelihood, Mapping):
        parameters = {
            key: tuple(value) if isinstance(value, list) else value  # a file holds several numbers as a list
            for key, value in likelihood.items()
            if key != "name"
        }
        name = likelihood.get("name")
    name = ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in LIKELIHOODS:
        near = get_close_matches(str(name).lower(), LIKELIHOODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InvalidArgumentError(
            f"likelihood: expected one of {', '.join(LIKELIHOODS)}, or a Likelihood, got {name!r}{hint}"
        )
    try:
        return LIKELIHOODS[name](**parameters)
    except TypeError as error:
        raise InvalidArgumentError(
            f"likelihood: expected parameters of {name}, got {', '.join(map(str, parameters))}"
        ) from error
