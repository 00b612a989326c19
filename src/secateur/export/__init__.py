"""Export pruned networks: files, ONNX graphs, sparse kernels, measurements of size and speed.

`save` and `load` keep a network in a directory, `artifact` in one file, both without pickle; `onnx` writes a
checked graph for onnxruntime; `sparse` swaps in CSR or 2:4 kernels where they are faster here; `bench`
measures variants side by side.
"""

from secateur.export import artifact
from secateur.export.measure import BenchRow, Latency, bench
from secateur.export.onnx_graph import OnnxFile, PosteriorAverage, onnx
from secateur.export.saving import load, save
from secateur.export.sparse_kernels import KernelRow, measure_kernels, sparse

__all__ = [
    "BenchRow",
    "KernelRow",
    "Latency",
    "OnnxFile",
    "PosteriorAverage",
    "artifact",
    "bench",
    "load",
    "measure_kernels",
    "onnx",
    "save",
    "sparse",
]
