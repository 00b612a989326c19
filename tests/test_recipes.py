"""The Python of the pages on other libraries runs as shown, block after block."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def run(page: str) -> dict[str, Any]:
    """Run the blocks of a page in one namespace, and return it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) > 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")  # without a GPU
def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    names = run("transformers.md")
    assert len(names["pruner"].state_dict()["masks"]) > 0
    assert (tmp_path / "small.onnx").stat().st_size > 0
    assert names["result"].sparsity > 0.3


@pytest.mark.filterwarnings(
    # Lightning 2.6 asks torch's pytree in a way that torch 2.13 deprecates
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:The '.*dataloader' does not have many workers",
)
def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    names = run("lightning.md")
    assert float(names["trainer"].callback_metrics["sparsity"]) > 0
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
