"""A process that has imported everything and runs commands in forks, so that hundreds can be killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

DRIVER = """
import json, os, sys
import torch
from secateur.cli import main
from secateur.grid import jobs

torch.set_num_threads(1)
jobs.POLL_SECONDS = 0.02

# A run in miniature: a lock, epochs, each whole or absent, and an end with its parent.
RUN = '''
import fcntl, json, os, pathlib, sys, time
directory, network, data, method, seed = sys.argv[1:]
directory, parent = pathlib.Path(directory), int(os.environ["SECATEUR_PARENT"])
directory.mkdir(parents=True, exist_ok=True)
lock = open(directory / ".lock", "a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit("Error: expected no other process that writes this run")
def write(name, text):
    (directory / "draft").write_text(text)
    (directory / "draft").replace(directory / name)
write("config.json", json.dumps(dict(network=network, data=data, method=method, seed=int(seed), epochs=8)))
history = directory / "history.jsonl"
rows = history.read_text().splitlines() if history.exists() else []
for epoch in range(len(rows) + 1, 9):
    time.sleep(0.05)
    if os.getppid() != parent:
        sys.exit(1)
    rows.append(json.dumps(dict(epoch=epoch, seconds=0.05 * epoch, worker=parent)))
    write("history.jsonl", "".join(row + chr(10) for row in rows))
write("metrics.json", json.dumps(dict(accuracy=0.9)))
'''

def miniature(self, cell):
    words = (str(cell.directory(self.out)), cell.network, cell.data, cell.method, str(cell.seed))
    return [sys.executable, "-S", "-c", RUN, *words]

def run(words):
    if words[0] == "compare":
        jobs.Launch.command = miniature
        import secateur.reports.comparison
        secateur.reports.comparison.write = lambda out, **_: out / "comparison.html"
    sys.argv = ["secateur", *words]
    try:
        main()
    except SystemExit as ending:
        sys.stdout.flush()
        return ending.code

def fork(words):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        code = 70  # of an error that main let through
        try:
            code = run(words)
        finally:
            os._exit(code)
    return child

kept = os.dup(1)
os.dup2(2, 1)
run(sys.argv[1:])  # what is imported on first use is then in every fork
os.dup2(kept, 1)
print("ready", flush=True)
for line in sys.stdin:
    child = fork(json.loads(line))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Driver:
    """Runs commands in forks, and kills some."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self.log = process, log
        self.read()

    def read(self) -> str:
        line = self.process.stdout.readline()
        assert line, f"the driver died: {self.log.read_text()[-2000:]}"
        return line.strip()

    def run(self, *words: object, kill_after: float | None = None, number: int = signal.SIGKILL) -> int:
        """Return the exit code, or minus the signal that ended the command."""
        self.process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self.process.stdin.flush()
        child = int(self.read())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it was done before
                os.kill(child, number)
        return os.waitstatus_to_exitcode(int(self.read()))

    def kill_often(self, *words: object, kills: int, seed: int, longest: float) -> int:
        """Run a command that goes on where it was, killed so many times; return how often it was killed."""
        moments, deaths = random.Random(seed), 0
        for _ in range(kills):
            deaths += self.run(*words, kill_after=moments.uniform(0, longest)) == -signal.SIGKILL
        assert self.run(*words) == 0, self.log.read_text()[-2000:]
        return deaths


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    words = ["fit", *FIT, "--out", str(folder / "first"), "--resume"]
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=kept
        ) as process,
    ):
        yield Driver(process, folder / "log")
        process.stdin.close()


FIT = (
    "lenet", "digits", "--epochs", "4", "--batch-size", "600", "--samples", "2", "--device", "cpu",
    "--no-compile",
)  # fmt: skip


@pytest.fixture(scope="session")
def finished_run(driver, tmp_path_factory):
    """The directory of a finished run with its page, never killed; only to be read."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert driver.run("fit", *FIT, "--out", out, "--resume") == 0, driver.log.read_text()[-2000:]
    return out


@pytest.fixture
def fit_words():
    return FIT
