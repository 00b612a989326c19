"""The same runs on a real Dask scheduler with two workers on loopback, and through submitit's local queue."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from secateur.errors import SecateurError, UsageError
from secateur.grid import engine
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.engine import rows_of, run_cells
from secateur.grid.jobs import Launch
from support.files import files

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

RUN = """
import json, os, pathlib, sys, time
directory, network, data, method, seed = sys.argv[1:]
directory = pathlib.Path(directory)
if seed == "1":
    sys.exit("Error: expected a better seed, got 1")
directory.mkdir(parents=True)
config = dict(network=network, data=data, method=method, seed=int(seed))
(directory / "config.json").write_text(json.dumps(config))
(directory.parent / f"{os.environ['SECATEUR_PARENT']} {seed}").touch()
until = time.monotonic() + 20
while len(list(directory.parent.glob("* *"))) < 2:  # both workers are at it at once
    assert time.monotonic() < until, "nobody came"
    time.sleep(0.01)
(directory / "metrics.json").write_text(json.dumps(dict(accuracy=0.9)))
"""


@dataclass(frozen=True, kw_only=True)
class Scripted(Launch):
    """Starts scripts instead of training."""

    def command(self, cell):
        words = (str(cell.directory(self.out)), cell.network, cell.data, cell.method, str(cell.seed))
        return [sys.executable, "-S", "-c", RUN, *words]


class Silent:
    def started(self, row):
        pass

    def ended(self, row):
        pass

    def tick(self):
        pass


def cells(*seeds):
    return [Cell("mlp", "digits", "flat-map", seed) for seed in seeds]


def test_dask_runs_the_cells_and_a_failure_stops_no_other(tmp_path):
    launch = Scripted(out=tmp_path, options=RunOptions())
    rows = rows_of(cells(0, 1, 2), tmp_path, launch.options)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    )
    with cluster, engine.dask(cluster.scheduler_address, jobs=2) as pool:
        run_cells(rows, launch, engine=pool, jobs=None, view=Silent())
    assert [row.state for row in rows] == ["finished", "failed", "finished"]
    assert rows[1].reason == "expected a better seed, got 1"


def test_an_address_without_a_scheduler_is_one_line(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS_TO_CONNECT", 0.2)
    for address in ("tcp://127.0.0.1:9", "nonsense://"):
        with pytest.raises(UsageError, match="expected the address of a Dask scheduler") as caught:
            engine.dask(address, jobs=1).__enter__()
        assert "\n" not in str(caught.value)


def test_a_machine_without_slurm_is_one_line(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(SecateurError, match="--slurm: expected a machine that submits to SLURM") as caught:
        engine.slurm("main", tmp_path, threads=1).__enter__()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_submitit_runs_the_cells(tmp_path):
    pytest.importorskip("submitit")
    launch = Scripted(out=tmp_path, options=RunOptions(), threads=None)
    rows = rows_of(cells(0, 1, 2), tmp_path, launch.options)
    with engine.slurm("main", tmp_path, threads=1, cluster="local") as pool:
        run_cells(rows, launch, engine=pool, jobs=None, view=Silent())
    assert [row.state for row in rows] == ["finished", "failed", "finished"]
    assert rows[1].reason == "expected a better seed, got 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "runs"]  # no pickle stays


OPTIONS = RunOptions(epochs=6, samples=2, batch_size=200)


def result(directory):
    """What the same seed gives again, bit for bit."""
    metrics = json.loads((directory / "metrics.json").read_text())
    for name in ("seconds", "seconds_per_iteration", "sha256"):
        del metrics[name]
    return metrics, [files(directory)[f"{name}.safetensors"] for name in ("model", "posterior")]


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_at_most_an_epoch(tmp_path):
    """Real fits; the run of the killed worker ends with it, and another worker goes on with it."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    with engine.local(2) as pool:
        rows = rows_of(cells(0, 1), whole, OPTIONS)
        run_cells(rows, Launch(out=whole, options=OPTIONS, device="cpu"), engine=pool, jobs=2, view=Silent())
    assert [row.state for row in rows] == ["finished"] * 2
    rows = rows_of(cells(0, 1), part, OPTIONS)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with (
        cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        engine.dask(cluster.scheduler_address, jobs=2) as pool,
    ):
        pids = client.run(os.getpid)
        killed = []

        class Killer(Silent):
            def tick(self):
                if not killed and rows[0].progress.epoch >= 2:
                    killed.append(rows[0].progress.epoch)
                    os.kill(next(iter(pids.values())), signal.SIGKILL)

        launch = Launch(out=part, options=OPTIONS, device="cpu")
        run_cells(rows, launch, engine=pool, jobs=None, view=Killer())
    assert killed
    assert [row.state for row in rows] == ["finished"] * 2
    for cell in cells(0, 1):
        assert result(cell.directory(part)) == result(cell.directory(whole))
    logs = [cell.log(part).read_text() for cell in cells(0, 1)]
    assert sum(log.count("--resume") for log in logs) >= 3  # one began twice
    assert "resumed after epoch" in "".join(logs)


@pytest.mark.slow
def test_dask_costs_little_beside_the_local_pool(tmp_path):
    """Twelve short runs, two at a time, once the workers are there."""
    seconds = {}
    for name in ("local", "dask"):
        out = tmp_path / name
        options = RunOptions(epochs=1, samples=2)
        rows = rows_of(cells(*range(12)), out, options)
        launch = Launch(out=out, options=options, device="cpu")
        with engine.local(2) if name == "local" else engine.dask("local", jobs=2) as pool:
            started = time.perf_counter()
            run_cells(rows, launch, engine=pool, jobs=2, view=Silent())
            seconds[name] = time.perf_counter() - started
        assert [row.state for row in rows] == ["finished"] * 12
    assert seconds["dask"] <= 1.25 * seconds["local"]  # a tenth is the aim; the machine is shared
