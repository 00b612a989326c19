"""Compiled updates compute what eager ones do.

In a process of its own: the shape checks of the tests wrap every function, which the compiler cannot take.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.optimizers import OPTIMIZERS

SCRIPT = """
import torch
from support.optimizers import OPTIMIZERS, Build, task as make_task

for method in OPTIMIZERS:
    found = []
    for compile in (False, True):
        task = make_task("mlp")
        optimizer = Build(method)(task.model.named_parameters(), compile=compile)
        generator = torch.Generator().manual_seed(4)
        for step in range(6):
            if step == 3:
                shapes = {name: p.shape for name, p in task.model.named_parameters()}
                optimizer.hold({n: torch.rand(s, generator=generator) > 0.4 for n, s in shapes.items()})
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
            task.step(optimizer)
        posterior = optimizer.posterior()
        found.append({"mean": posterior.mean, "precision": posterior.precision, "keep": posterior.keep})
    for kind, eager in found[0].items():
        for name, value in eager.items():
            compiled = found[1][kind][name]
            torch.testing.assert_close(
                compiled, value, rtol=1e-3, atol=1e-5, msg=lambda m: f"{method} {kind} {name}: {m}"
            )
    print(method)
"""


@pytest.mark.slow
def test_compiled_equals_eager():
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == list(OPTIMIZERS)
