"""A compiled network trains as an uncompiled one does, where a run compiles it."""

import shutil
import subprocess
import sys

import pytest
import torch

from secateur.training.device import compiles_network

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler to compile for a CPU"
)


# In a process of its own: the shape checks of the tests wrap every function, which the compiler cannot take.
SCRIPT = """
import sys
import torch
import secateur
from secateur.data import Split, load
from secateur.networks.resnet import ResNet

fit_module = sys.modules["secateur.training.fit"]
digits = load("digits")
train = Split(digits.train.images[:320], digits.train.labels[:320])
found = []
for autocast in (False, True):
    runs = []
    for compiles in (False, True):
        fit_module.compiles_network = lambda device: compiles
        torch.manual_seed(0)
        network = ResNet((1, 8, 8), 10, num_blocks=1, width=4)  # batch norm and sampled weights
        runs.append(secateur.fit(network, train, method="flat-ff", epochs=2, compile=True, autocast=autocast,
                                 device="cpu", num_samples=2))
    eager, compiled = runs
    assert compiled.config["compile_network"] and not eager.config["compile_network"]
    assert set(compiled.model.state_dict()) == set(eager.model.state_dict())  # no wrapper's prefix
    relative = 5e-2 if autocast else 1e-3
    for a, b in zip(eager.history, compiled.history, strict=True):
        assert abs(a["train_loss"] - b["train_loss"]) < relative * a["train_loss"], (a, b)
    for name, mean in eager.posterior.mean.items():
        if name.endswith("conv1.weight"):
            off = (compiled.posterior.mean[name] - mean).norm() / mean.norm()
            assert off < 5 * relative, (name, float(off))
            print(autocast, name, float(off))
"""


def test_only_a_gpu_compiles_the_network():
    assert compiles_network(torch.device("cuda", 1))
    assert not compiles_network(torch.device("cpu"))


def test_a_run_that_compiles_nothing_leaves_it_alone(fit, monkeypatch):
    monkeypatch.setattr(sys.modules["secateur.training.fit"], "compiles_network", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    assert fit(epochs=1, compile=False).config["compile_network"] is False


def test_the_network_is_compiled_for_one_shape(fit, monkeypatch):
    """What torch.compile is asked, with what it gives left out: nothing is built here."""
    asked = []
    monkeypatch.setattr(sys.modules["secateur.training.fit"], "compiles_network", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda given, **options: asked.append((given, options)) or given)
    run = fit(epochs=1, compile=True, method="flat-map")
    networks = [options for given, options in asked if given is run.model]
    assert networks == [{"dynamic": False}]
    assert run.config["compile_network"] is True


@pytest.mark.slow
@needs_compiler
def test_forced_on_a_cpu_it_trains_as_without():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 2 * 4
