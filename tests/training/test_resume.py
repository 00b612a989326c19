"""A run that was interrupted, at whatever moment, ends as the uninterrupted one does, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from secateur.errors import ArtifactError

METHODS = (
    "calibrated",
    "ivon",
    "flat-map",
    "flat-ff",
    "tiered-ff",
    "tiered-ff-tuned",
    "bmr-spike-and-slab",
    pytest.param("bmr-horseshoe", marks=pytest.mark.slow),  # each shrinkage is an optimisation of its own
    "magnitude",
)


@pytest.mark.parametrize("method", METHODS)
def test_after_any_epoch(fit, stop_at, repeatable, tmp_path, method):
    options = (
        {"sparsity": 0.8} if method == "magnitude" else {}
    )  # a tenth of this network is its output layer
    fit(method=method, out=tmp_path / "whole", **options)
    whole = repeatable(tmp_path / "whole")
    assert len(whole["history"]) == 5
    for step in (7, 58, 95):  # in the first epoch, while reducing, at the end
        out = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            fit(method=method, out=out, progress=stop_at(step), **options)
        assert not (out / "metrics.json").exists()
        fit(method=method, out=out, resume=True, **options)
        assert repeatable(out) == whole


def test_the_interrupted_runs_were_reducing(fit):
    rows = fit(method="calibrated").history
    assert sum(row.get("num_removed", 0) > 0 for row in rows) >= 2
    assert rows[-1]["sparsity"] > rows[1]["sparsity"] > 0


def test_interrupted_again_and_again(fit, stop_at, repeatable, tmp_path):
    fit(out=tmp_path / "whole", sparsity=0.8)
    for step in (5, 30, 45, 70, 90, 95):
        with pytest.raises(KeyboardInterrupt):
            fit(out=tmp_path / "part", sparsity=0.8, resume=True, progress=stop_at(step))
    fit(out=tmp_path / "part", sparsity=0.8, resume=True)
    assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing_but_time(fit, repeatable, tmp_path):
    first = fit(out=tmp_path)
    before = repeatable(tmp_path)
    again = fit(out=tmp_path, resume=True)
    assert repeatable(tmp_path) == before
    assert again.metrics["seconds"] == first.metrics["seconds"]


def test_resuming_where_nothing_is_begins(fit, repeatable, tmp_path):
    fit(out=tmp_path / "whole")
    fit(out=tmp_path / "new", resume=True)
    assert repeatable(tmp_path / "new") == repeatable(tmp_path / "whole")


def test_a_history_ahead_of_its_checkpoint_is_set_back(fit, stop_at, repeatable, tmp_path):
    fit(out=tmp_path / "whole")
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        fit(out=out, progress=stop_at(50))
    lines = (out / "history.jsonl").read_text()
    (out / "history.jsonl").write_text(lines + '{"epoch": 3, "never": "checkpointed"}\n')
    fit(out=out, resume=True)
    assert repeatable(out) == repeatable(tmp_path / "whole")


def test_leftovers_of_a_killed_write_do_no_harm(fit, stop_at, repeatable, tmp_path):
    fit(out=tmp_path / "whole")
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        fit(out=out, progress=stop_at(50))
    for name in ("checkpoint.safetensors", "config.json", "history.jsonl", "model.safetensors"):
        (out / f".{name}.0123456789abcdef.partial").write_bytes(b"half a fi")
    fit(out=out, resume=True)
    assert not list(out.glob(".*.partial"))
    assert repeatable(out) == repeatable(tmp_path / "whole")
    only = tmp_path / "only"
    only.mkdir()
    (only / ".config.json.0123456789abcdef.partial").write_bytes(b"{")
    fit(out=only, resume=True)
    assert repeatable(only) == repeatable(tmp_path / "whole")


def test_a_fit_repeats_itself_and_leaves_the_global_generator_alone(fit, tiny):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    runs = [fit(method="flat-map", seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Runs fits in forks of one process that has imported everything. A fit asked to stops itself dead, as SIGKILL
# from outside would, at its n-th file operation.
DRIVER = """
import json, os, signal, sys
import torch, secateur
from pathlib import Path
from secateur.data import Split, load
from secateur.networks.mlp import MLP
from secateur.pruning import schedule

torch.set_num_threads(1)
schedule.STEPS_OF_WARM_UP, schedule.STEPS_BETWEEN_REDUCTIONS = 20, 10
digits = load("digits")
train = Split(digits.train.images[:320], digits.train.labels[:320])
test = Split(digits.test.images[:100], digits.test.labels[:100])

def dying_at(number):
    count = 0
    def before(function):
        def called(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return called
    os.fsync, Path.replace = before(os.fsync), before(Path.replace)

def run(*, epochs, out=None, operation=0):
    if operation:
        dying_at(operation)
    torch.manual_seed(0)
    network = MLP((1, 8, 8), 10, width=16, depth=2)
    secateur.fit(network, train, test, epochs=epochs, device="cpu", num_samples=4, compile=False, out=out,
                 resume=True)

run(epochs=1)  # what torch imports on first use is then in every fork
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        run(**json.loads(line))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Driver:
    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.read()

    def read(self) -> str:
        line = self.process.stdout.readline()
        assert line, "the driver died"
        return line.strip()

    def begin(self, out, *, epochs: int, operation: int = 0) -> int:
        order = {"out": str(out), "epochs": epochs, "operation": operation}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.read())

    def end(self) -> int:
        return os.waitstatus_to_exitcode(int(self.read()))

    def fit(self, out, *, epochs: int, operation: int = 0, kill_after: float | None = None) -> int:
        child = self.begin(out, epochs=epochs, operation=operation)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return self.end()


@pytest.fixture(scope="module")
def driver():
    command = [sys.executable, "-W", "ignore", "-c", DRIVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Driver(process)
        process.stdin.close()


def test_killed_at_every_file_operation(driver, repeatable, tmp_path):
    assert driver.fit(tmp_path / "whole", epochs=3) == 0
    whole = repeatable(tmp_path / "whole")
    deaths = 0
    for operation in range(1, 100):
        out = tmp_path / str(operation)
        died = driver.fit(out, epochs=3, operation=operation)
        if died == 0:
            break
        assert died == -signal.SIGKILL
        deaths += 1
        assert driver.fit(out, epochs=3) == 0
        assert repeatable(out) == whole
    assert deaths >= 3 * 4 + 6  # history and checkpoint of each epoch, then the files of the end


def test_two_processes_do_not_meet_in_one_run(driver, fit, tmp_path):
    """The second is refused while the first is at it, and goes on as soon as that is dead."""
    out = tmp_path / "run"
    child = driver.begin(out, epochs=100_000)
    until = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    before = (out / "config.json").read_bytes()
    with pytest.raises(
        ArtifactError, match=f"{out}: expected no other process that writes this run"
    ) as caught:
        fit(out=out, epochs=3, resume=True)
    assert "\n" not in str(caught.value)
    os.kill(child, signal.SIGKILL)
    assert driver.end() == -signal.SIGKILL
    assert (out / "config.json").read_bytes() == before
    with pytest.raises(ArtifactError, match="expected the run's own epochs"):  # the lock is free again
        fit(out=out, epochs=3, resume=True)


def killed_at_random(driver, repeatable, tmp_path, *, epochs, kills, seed):
    started = time.perf_counter()
    assert driver.fit(tmp_path / "whole", epochs=epochs) == 0
    seconds = time.perf_counter() - started
    moments = random.Random(seed)
    survived = 0
    for _ in range(kills):
        try:
            survived += (
                driver.fit(tmp_path / "part", epochs=epochs, kill_after=moments.uniform(0, seconds)) == 0
            )
        except ProcessLookupError:  # it was done before the kill
            driver.read()
    assert driver.fit(tmp_path / "part", epochs=epochs) == 0
    assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")


def test_killed_at_random(driver, repeatable, tmp_path):
    killed_at_random(driver, repeatable, tmp_path, epochs=8, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_many_times(driver, repeatable, tmp_path, seed):
    killed_at_random(driver, repeatable, tmp_path, epochs=30, kills=12, seed=seed)
