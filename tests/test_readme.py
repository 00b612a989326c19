"""The README's Python runs as shown."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_three_ways_in() -> None:
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_in_an_empty_directory(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(SNIPPETS[number], f"README.md, snippet {number + 1}", "exec"), names)
    if number == 0:
        result, model, digits = names["result"], names["model"], names["digits"]
        assert 0.3 < result.sparsity < 0.9
        with torch.no_grad():
            right = model(digits.test.images).argmax(1) == digits.test.labels
            torch.testing.assert_close(
                names["small"](digits.test.images), model(digits.test.images), rtol=1e-4, atol=1e-4
            )
        assert right.float().mean() > 0.9
        assert (tmp_path / "digits.onnx").stat().st_size > 0
    if number == 1:
        assert 0.1 < names["result"].sparsity < 0.9
    if number == 2:
        assert names["evidence"][0] > 0 > names["evidence"][1]
