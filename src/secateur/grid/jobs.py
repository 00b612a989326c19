"""The process of one run: its command line, and how a worker runs it to its end.

Everything here happens on the machine that does the work. A run ends with its worker, and when a file tells
it to; its lock keeps a second process away.
"""

import os
import platform
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from secateur.grid.cells import Cell, RunOptions
from secateur.runs.directory import is_held
from secateur.runs.files import open_appending

__all__ = ["PARENT_VARIABLE", "Job", "Launch", "num_cores", "run_job", "use_gpu"]

POLL_SECONDS = 0.2
SECONDS_TO_STOP = 20.0  # after SIGINT; a run that is still reading its data may be slow to notice
THREADS_VARIABLE = "OMP_NUM_THREADS"
PARENT_VARIABLE = "SECATEUR_PARENT"
"""Names the process without which `secateur` ends: a run does not outlive the worker that waits for it."""
_STOPPED = "stopped"
_worker = threading.local()


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a machine needs to run a cell; plain values, which any engine can send.

    Attributes:
        command: Words of the process.
        folder: Where it runs.
        directory: Of the run.
        log: File that gets what it prints.
        stop: A file of this name ends the run.
        threads: Threads of the run; when None, what the environment there says, else one for each core.
    """

    command: tuple[str, ...]
    folder: Path
    directory: Path
    log: Path
    stop: Path
    threads: str | None


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Options to launch the process of a cell.

    Attributes:
        out: Directory of the comparison.
        options: What all runs share.
        device: As `secateur fit` takes it.
        data_dir: Folder with data sets, if any.
        threads: Threads of each run, unless the environment here says; None leaves that to its machine.
        stop: A file of this name ends all runs; random, so that no earlier one is meant.
    """

    out: Path
    options: RunOptions
    device: str = "auto"
    data_dir: Path | None = None
    threads: int | None = 1
    stop: str = field(default_factory=lambda: f".stop.{secrets.token_hex(8)}.partial")

    def command(self, cell: Cell) -> list[str]:
        """Return the command line of a cell's run."""
        words = [sys.executable, "-m", "secateur", "fit", cell.network, cell.data]
        words += ["--method", cell.method, "--seed", str(cell.seed), "--device", self.device]
        words += self.options.words(cell)
        if self.data_dir is not None:
            words += ["--data-dir", str(self.data_dir)]
        return [*words, "--out", str(cell.directory(self.out)), "--resume"]

    def job(self, cell: Cell) -> Job:
        """Return the job of a cell's run; its paths hold wherever it runs, if the file system is shared."""
        folder = Path.cwd()
        return Job(
            command=tuple(self.command(cell)),
            folder=folder,
            directory=folder / cell.directory(self.out),
            log=folder / cell.log(self.out),
            stop=folder / self.out / self.stop,
            threads=os.environ.get(THREADS_VARIABLE) or (self.threads and str(self.threads)) or None,
        )


def num_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_gpu(number: int) -> None:
    """Let the runs of this thread see one GPU only.

    Args:
        number: Of the GPU.
    """
    _worker.gpu = number


def run_job(job: Job) -> str:
    """Run the process of a cell to its end, on the machine that this is called on.

    Args:
        job: What to run.

    Returns:
        Why it failed; nothing if it did not.

    Raises:
        OSError: If its log cannot be written.
    """
    with open_appending(job.log) as log:
        # After the death of a worker its run may take a moment to follow; nobody else's run is disturbed.
        while is_held(job.directory) and not job.stop.exists():
            time.sleep(POLL_SECONDS)
        if job.stop.exists():
            return _STOPPED
        log.write(f"{platform.node()}: {shlex.join(job.command)}\n".encode())
        log.flush()
        start = log.tell()
        # Its own process group: Ctrl-C in a terminal reaches the comparison alone, which then stops the runs.
        process = subprocess.Popen(
            job.command,
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(job, os.environ),
            process_group=0,
        )
        try:
            while process.poll() is None and not job.stop.exists():
                time.sleep(POLL_SECONDS)
            stopped = process.poll() is None
        finally:
            _end_process(process)
    return _STOPPED if stopped else _reason(process.returncode, job.log, start)


def _environment(job: Job, given: Mapping[str, str]) -> dict[str, str]:
    own = {PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    if job.threads is not None:
        own[THREADS_VARIABLE] = job.threads
    if (gpu := getattr(_worker, "gpu", None)) is not None:
        own["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return {THREADS_VARIABLE: str(num_cores()), **given, **own}


def _end_process(process: "subprocess.Popen[bytes]") -> None:
    """End a process that still runs: gently, then not."""
    if process.poll() is None:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # inherited by the run, as under nohup
        process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(code: int, log: Path, start: int) -> str:
    if code == 0:
        return ""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "").removeprefix("Error: ")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        last = f"ended by {name}; the last line of its log is: {last}" if last else f"ended by {name}"
    return last or f"exit code {code}, and nothing in its log"
