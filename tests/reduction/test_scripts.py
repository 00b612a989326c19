"""The gallery and the benchmarks run, and print the tables they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_the_gallery_recovers_more_with_a_covariance(tmp_path: Path) -> None:
    output = run("examples/reduction_gallery.py", "--no-mcmc", "--repeats", "1", "--out", str(tmp_path))
    problems = ("linear", "logistic", "poisson", "multinomial")
    names = {"correlation.png", *(f"recovery-{problem}.png" for problem in problems)}
    assert {path.name for path in tmp_path.iterdir()} == names
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines()[2:]]
    error = {(problem, method): float(cells[2]) for problem, method, *cells in lines}
    for problem in problems:
        assert error[problem, "BMR, full covariance"] < error[problem, "BMR, mean-field"]
        if problem != "multinomial":  # one call, with an intercept besides, finds nearly the same
            assert error[problem, "secateur.regress"] < error[problem, "BMR, mean-field"]


@pytest.mark.parametrize(
    ("script", "sizes", "rows"),
    [("reduction_pass.py", ["1000", "300000"], 12), ("reduction_kronecker.py", ["32", "64"], 10)],
)
def test_benchmarks_print_a_row_per_size_and_work(script: str, sizes: list[str], rows: int) -> None:
    output = run(f"benchmarks/{script}", "--repeats", "2", "--threads", "1", "--sizes", *sizes)
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert len(table) == rows + 2
