"""What a reduced network leaves as: its own file, an ONNX graph, sparse kernels, a table of measurements.

`artifact` saves and loads without pickle; `onnx` writes a checked graph; `sparse` swaps in CSR or 2:4 kernels
where they are faster here; `bench` measures variants side by side.
"""

from secateur.export import artifact
from secateur.export.measure import BenchRow, Latency, bench
from secateur.export.onnx_graph import OnnxFile, PosteriorAverage, onnx
from secateur.export.sparse_kernels import KernelRow, measure_kernels, sparse

__all__ = [
    "BenchRow",
    "KernelRow",
    "Latency",
    "OnnxFile",
    "PosteriorAverage",
    "artifact",
    "bench",
    "measure_kernels",
    "onnx",
    "sparse",
]
