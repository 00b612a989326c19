"""Export pruned networks: files, ONNX graphs, sparse kernels, measurements of size and speed.

`artifact` saves and loads without pickle; `onnx` writes a checked graph; `sparse` swaps in CSR or 2:4 kernels
where they are faster here; `streamlined` writes a network out in the form that is fastest here; `bench`
measures variants side by side.
"""

from secateur.export import artifact
from secateur.export.measure import BenchRow, Latency, bench
from secateur.export.onnx_graph import OnnxFile, PosteriorAverage, onnx
from secateur.export.sparse_kernels import KernelRow, measure_kernels, sparse
from secateur.export.streamlining import Streamlining, measure_streamlining, streamlined

__all__ = [
    "BenchRow",
    "KernelRow",
    "Latency",
    "OnnxFile",
    "PosteriorAverage",
    "Streamlining",
    "artifact",
    "bench",
    "measure_kernels",
    "measure_streamlining",
    "onnx",
    "sparse",
    "streamlined",
]
