"""What an import brings: the mathematics needs torch alone, and nothing is read before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import secateur

ONLY_TORCH = """
import sys
from importlib.abc import MetaPathFinder

ALLOWED = set(sys.stdlib_module_names) | {"torch", "numpy", "secateur"}
# What torch requires, and imports when its functions are first called.
ALLOWED |= {"filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy", "typing_extensions"}
import torch  # before the wall, since it looks for many packages that it can do without
BROUGHT_BY_TORCH = {name.partition(".")[0] for name in sys.modules}


class Wall(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in BROUGHT_BY_TORCH:
            raise ModuleNotFoundError(f"the wall lets no {name} through", name=name)
        return None


sys.meta_path.insert(0, Wall())
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wall_stands():
    with pytest.raises(AssertionError, match="the wall lets no safetensors"):
        run_python(ONLY_TORCH + "import safetensors")


def test_reduction_needs_torch_alone():
    said = run_python(
        ONLY_TORCH
        + """
import secateur.reduction as reduction
mean, precision = torch.tensor([0.02, -1.3], dtype=torch.float64), torch.tensor([100.0, 25.0])
evidence = reduction.delta_f(mean, precision.double(), prior_precision=1.0)
covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
found = reduction.search_subsets(mean, covariance, prior_precision=torch.eye(2).double())
print(*(float(value) for value in evidence), reduction.spike_and_slab(evidence).keep.tolist())
for name in reduction.__all__:
    getattr(reduction, name)
print(sorted({name.partition(".")[0] for name in sys.modules} - ALLOWED - BROUGHT_BY_TORCH))
"""
    )
    numbers, brought = said.splitlines()
    first, second, keep = numbers.split(" ", 2)
    # half of ln(precision) - precision * mean squared
    assert float(first) == pytest.approx(0.5 * (4.605170185988092 - 0.04), rel=1e-12)
    assert float(second) == pytest.approx(0.5 * (3.2188758248682006 - 25 * 1.69), rel=1e-6)
    assert keep == "[False, True]"
    assert brought == "[]"


def test_importing_the_package_imports_none_of_its_parts():
    said = run_python(
        "import sys, secateur\n"
        "print(sorted(n for n in sys.modules if n.startswith('secateur')), 'torch' in sys.modules)"
    )
    assert said.strip() == "['secateur', 'secateur.version'] False"


def test_no_part_reads_what_only_pages_and_downloads_need():
    parts = [name for name in secateur.__all__ if name != "__version__"]
    said = run_python(
        f"import sys, secateur\nfor name in {parts}: getattr(secateur, name)\n"
        "import secateur.cli\n"
        "print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    heavy = {"matplotlib", "pandas", "pooch", "requests", "sklearn", "scipy", "pytorch_optimizer"}
    heavy |= {"transformers", "lightning", "onnx", "onnxruntime", "dask", "tensorboard"}
    assert heavy.isdisjoint(said.split())


def test_every_public_name_is_there_and_type_checkers_see_the_same():
    source = Path(secateur.__file__).read_text(encoding="utf-8")
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    declared = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared | {"__version__"} == set(secateur.__all__)
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            home = __import__(str(node.module), fromlist=[alias.name])
            assert getattr(secateur, alias.name) is getattr(home, alias.name)
    assert secateur.__all__ == sorted(secateur.__all__)
    assert set(dir(secateur)) == set(secateur.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(secateur, "prune_everything")
    assert not hasattr(secateur, "_hidden")
    with pytest.raises(ImportError, match="cannot import name 'prune_everything'"):
        exec("from secateur import prune_everything")
