"""The README's Python runs as shown."""

import re
from pathlib import Path

import pytest
import torch

from support.pages import ROOT, blocks

SNIPPETS = blocks(ROOT / "README.md", "python")
TRAINED, OWN_LOOP, MATHEMATICS = range(3)


def test_there_are_three_ways_in() -> None:
    assert len(SNIPPETS) == 3


def test_links_lead_to_files_and_headings() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        page = (ROOT / path).read_text(encoding="utf-8") if path.endswith(".md") else ""
        assert (ROOT / path).is_file(), target
        headings = {
            re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-") for line in page.splitlines()
        }
        assert not anchor or anchor in headings, target


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_in_an_empty_directory(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(SNIPPETS[number], f"README.md, snippet {number + 1}", "exec"), names)
    if number == OWN_LOOP:
        result, model, digits = names["result"], names["model"], names["digits"]
        assert 0.3 < result.sparsity < 0.9
        with torch.no_grad():
            right = model(digits.test.images).argmax(1) == digits.test.labels
            torch.testing.assert_close(
                names["small"](digits.test.images), model(digits.test.images), rtol=1e-4, atol=1e-4
            )
        assert right.float().mean() > 0.9
        assert (tmp_path / "digits.onnx").stat().st_size > 0
    if number == TRAINED:
        assert 0.1 < names["result"].sparsity < 0.9
    if number == MATHEMATICS:
        assert names["evidence"][0] > 0 > names["evidence"][1]
