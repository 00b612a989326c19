"""Likelihoods by name, by description, by value."""

import json

import pytest

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Bernoulli, Categorical, Gaussian, Poisson, resolve


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("categorical", Categorical()),
        ("bernoulli", Bernoulli()),
        ("gaussian", Gaussian()),
        ("poisson", Poisson()),
        ("cross-entropy", Categorical()),
        ("squared-error", Gaussian(noise=1.0)),
    ],
)
def test_names_and_their_aliases(name, expected):
    assert resolve(name) == expected


@pytest.mark.parametrize(
    "likelihood",
    [Categorical(ignore_label=0), Bernoulli(), Gaussian(noise="learned", rate=3.0), Gaussian(0.1), Poisson()],
    ids=repr,
)
def test_a_description_survives_json(likelihood):
    assert resolve(likelihood) is likelihood
    assert resolve(json.loads(json.dumps(likelihood.describe()))) == likelihood


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hinge", "likelihood: expected one of categorical, bernoulli, gaussian, poisson, .* got 'hinge'"),
        ("Gausian", "did you mean gaussian?"),
        ({}, "got None"),
        ({"name": ["categorical"]}, "expected one of categorical"),
        ({"name": "poisson", "noise": 1.0}, "expected parameters of poisson, got noise"),
    ],
)
def test_what_is_no_likelihood_is_refused(value, message):
    with pytest.raises(InvalidArgumentError, match=message):
        resolve(value)
