"""The Python of docs/own-data.md runs as shown."""

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_in_an_empty_directory(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(SNIPPETS[number], f"own-data.md, snippet {number + 1}", "exec"), names)
    said = capsys.readouterr().out
    if number == 0:
        metrics = names["run"].metrics
        assert metrics["root_mean_squared_error"] < 1.6  # the noise has 1
        assert metrics["sparsity"] > 0.05
    if number == 1:
        assert names["run"].metrics["deviance"] < 8
    if number == 2:
        assert names["found"].best.names == ("dose", "weight")
        assert "dose" in said
