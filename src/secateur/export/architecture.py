"""Write the architecture of a traced network as JSON, and build the network again without its code.

A file is hostile until shown otherwise. Only what is on the lists below is called for it: torch's own layers,
functions and tensor methods, none of which reads or writes anything but tensors. `torch.fx` writes the graph
out as the text of a `forward`. Every name in it is therefore checked: a keyword is one that its target
takes, an attribute is a layer or a tensor of the file, an argument's name is an identifier; values reach the
text by their `repr`. Layers are built without memory, their numbers are bounded by the tensors of the file,
and no file says which device to compute on.
"""

import inspect
import keyword
import math
import operator
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from secateur.errors import ArtifactError, InvalidArgumentError

__all__ = ["DTYPES", "build", "describe"]

_PLAIN_LAYERS = (
    "Identity Flatten Unflatten Linear Bilinear Embedding MultiheadAttention LayerNorm GroupNorm RMSNorm "
    "LocalResponseNorm Upsample PixelShuffle PixelUnshuffle ChannelShuffle Fold Unfold Dropout AlphaDropout "
    "FeatureAlphaDropout CosineSimilarity ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU GLU SiLU Mish "
    "Tanh Sigmoid Softplus Softsign Softmax Softmin LogSoftmax LogSigmoid Hardtanh Hardswish Hardsigmoid "
    "Hardshrink Softshrink Tanhshrink Threshold"
)
_LAYERS_OF_AXES = (
    "Conv ConvTranspose BatchNorm InstanceNorm MaxPool AvgPool LPPool AdaptiveAvgPool AdaptiveMaxPool "
    "Dropout ZeroPad ConstantPad ReflectionPad ReplicationPad CircularPad"
)
_OPERATORS = (
    "add sub mul truediv floordiv mod neg pow matmul getitem eq ne lt le gt ge iadd isub imul itruediv "
    "abs and_ or_ not_"
)
_FUNCTIONALS = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid softplus softsign "
    "logsigmoid tanhshrink softshrink hardshrink threshold dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_alpha_dropout linear conv1d conv2d conv3d embedding layer_norm group_norm "
    "rms_norm instance_norm batch_norm avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d softmax log_softmax softmin normalize pad interpolate pixel_shuffle "
    "pixel_unshuffle one_hot scaled_dot_product_attention glu unfold fold cosine_similarity"
)
_TORCH = (
    "add sub mul div matmul bmm einsum cat concat stack chunk split unbind flatten unflatten reshape "
    "permute transpose movedim squeeze unsqueeze index_select gather where maximum minimum relu tanh "
    "sigmoid exp log log1p expm1 sqrt rsqrt abs square pow clamp sin cos erf mean sum amax amin var std "
    "softmax log_softmax logsumexp roll flip arange zeros ones full zeros_like ones_like full_like outer "
    "tril triu rsub addmm baddbmm broadcast_to repeat_interleave neg reciprocal"
)
_TENSOR_METHODS = (
    "add sub mul div matmul bmm view reshape flatten unflatten permute transpose swapaxes movedim squeeze "
    "unsqueeze expand expand_as view_as reshape_as repeat chunk split unbind contiguous clone detach "
    "float double half bfloat16 to type_as long int bool mean sum amax amin max min var std softmax "
    "log_softmax relu relu_ tanh tanh_ sigmoid sigmoid_ exp log sqrt rsqrt abs square pow clamp clamp_min "
    "sin cos size dim numel t index_select gather masked_fill where roll flip argmax add_ mul_ sub_ div_ "
    "neg reciprocal new_zeros new_ones logsumexp erf narrow select unfold tril triu"
)
_LAYERS = frozenset(_PLAIN_LAYERS.split()) | {
    f"{kind}{n}d" for kind in _LAYERS_OF_AXES.split() for n in (1, 2, 3)
}
_METHODS = frozenset(_TENSOR_METHODS.split())
_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT"})
_FUNCTIONS: dict[str, Any] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS.split()},
    **{f"torch.{name}": getattr(torch, name) for name in _TORCH.split()},
    **{f"F.{name}": getattr(F, name) for name in _FUNCTIONALS.split()},
    "getattr": getattr,
}
_NAMES = {id(function): name for name, function in reversed(_FUNCTIONS.items())}
_TYPES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128"
DTYPES = {f"torch.{name}": getattr(torch, name) for name in _TYPES.split()}
_ATTENTION_FLAGS = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}
_NOT_DESCRIBED = frozenset({"device", "dtype", "args", "kwargs"})
_NO_KEYWORDS = frozenset({"device", "out", "generator", "pin_memory", "layout", "names"})
_PYTHON_KEYWORDS = frozenset({"input", "axis", "keepdims", "return_indices", "memory_format"})
_PATH = re.compile(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_LARGEST_NUMBER = 1 << 16  # of a layer, where no tensor of the file is longer


def describe(network: fx.GraphModule) -> dict[str, Any]:
    """Return the architecture of a traced network.

    Args:
        network: A compact network, or any other traced one.

    Returns:
        A value that JSON can hold, without weights.

    Raises:
        InvalidArgumentError: If a layer or function is not one of torch's that `build` knows; it is named.
    """
    numbers = {node: number for number, node in enumerate(network.graph.nodes)}
    layers = {}
    nodes = []
    for node in network.graph.nodes:
        target: Any = node.target
        if node.op == "call_module" and target not in layers:
            layers[target] = _describe_layer(target, network.get_submodule(target))
        elif node.op == "call_function":
            target = _NAMES.get(id(node.target), getattr(node.target, "__name__", str(node.target)))
        entry = [node.op, target, _encode(list(node.args), numbers)]
        nodes.append([*entry, _encode(node.kwargs, numbers)] if node.kwargs else entry)
    return {"class": type(network).__name__, "layers": layers, "nodes": nodes}


def _unknown(kind: str, name: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"expected torch's own layers, functions and methods, got the {kind} {name}")


def _describe_layer(path: str, layer: nn.Module) -> list[Any]:
    kind = type(layer)
    if kind.__name__ not in _LAYERS or getattr(nn, kind.__name__) is not kind:
        raise _unknown("layer", f"{path} ({kind.__qualname__})")
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in _NOT_DESCRIBED or (name.startswith("_") and not hasattr(layer, name)):
            continue
        if isinstance(layer, nn.MultiheadAttention) and name in _ATTENTION_FLAGS:
            value = getattr(layer, _ATTENTION_FLAGS[name]) is not None
        elif name == "bias":
            value = getattr(layer, "bias", None) is not None
        elif hasattr(layer, name):
            value = getattr(layer, name)
        else:
            raise _unknown("layer", f"{path} ({kind.__name__}, whose {name} it does not keep)")
        if value != parameter.default:
            arguments[name] = _encode(value, {})
    return [kind.__name__, arguments]


def _encode(value: Any, numbers: dict[fx.Node, int]) -> Any:
    """Return an argument as JSON can hold it; what is not a plain value becomes an object of one key."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": numbers[value]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, numbers) for item in value]}
    if isinstance(value, list):
        return [_encode(item, numbers) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: _encode(item, numbers) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(item, numbers) for item in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": 0}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    raise _unknown("argument", repr(value))


def _decode(value: Any, nodes: list[fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_decode(item, nodes) for item in content)
    if kind == "dict":
        return {str(key): _decode(item, nodes) for key, item in content.items()}
    if kind == "slice":
        return slice(*(_decode(item, nodes) for item in content))
    if kind == "ellipsis":
        return Ellipsis
    if kind == "float":
        return float(content)
    if kind == "dtype":
        return DTYPES[content]
    raise ValueError(f"unknown kind of argument {kind!r}")


def build(
    architecture: dict[str, Any], tensors: Mapping[str, Tensor], parameters: Collection[str], *, limit: int
) -> fx.GraphModule:
    """Return a network from its description and its tensors, in evaluation mode.

    Args:
        architecture: What `describe` returned.
        tensors: Every parameter and buffer, by qualified name.
        parameters: Which of them are parameters.
        limit: Largest product of the numbers that one call of the graph may be given.

    Returns:
        The network.

    Raises:
        ArtifactError: If the description is damaged, asks for what is not on the lists, or does not fit
            the tensors.
    """
    try:
        root = nn.Module()
        largest = max([_LARGEST_NUMBER, *(size for tensor in tensors.values() for size in tensor.shape)])
        for path, (kind, arguments) in architecture["layers"].items():
            owner, leaf = _place(root, path)
            decoded = _decode({"dict": arguments}, [])
            if max(map(abs, _numbers(decoded)), default=0) > largest:
                raise ValueError(f"{path} is larger than any tensor of the file")
            owner.add_module(leaf, _build_layer(kind, decoded))
        for path, tensor in tensors.items():
            owner, leaf = _place(root, path)
            expected = getattr(owner, leaf, None)
            if expected is not None and expected.shape != tensor.shape:
                raise ValueError(f"{path} has the shape {list(tensor.shape)}, not {list(expected.shape)}")
            if path in parameters:
                setattr(owner, leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
            elif leaf in dict(owner.named_buffers(recurse=False)):
                setattr(owner, leaf, tensor)
            else:
                owner.register_buffer(leaf, tensor)
        graph = _build_graph(architecture, root, tensors.keys(), limit)
        network = fx.GraphModule(root, graph, _checked(architecture["class"]))
        missing = [name for name, tensor in network.state_dict().items() if tensor.is_meta]
        if missing:
            raise ValueError(f"no values for {', '.join(missing)}")
        return network.eval()
    except Exception as error:  # torch's layers and the compiler raise whatever suits arguments that do not
        reason = " ".join(str(error).split())
        raise ArtifactError(f"expected the description of a network, got a damaged one: {reason}") from error


def _numbers(value: Any) -> list[int]:
    """Return the whole numbers in a nest of arguments."""
    if isinstance(value, int):
        return [value]
    if isinstance(value, slice):
        return _numbers([value.start, value.stop, value.step])
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [number for item in items for number in _numbers(item)]


def _checked(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no identifier")
    return name


def _build_layer(kind: str, arguments: dict[str, Any]) -> nn.Module:
    if kind not in _LAYERS:
        raise ValueError(f"{kind!r} is no layer that a file may name")
    layer_type = getattr(nn, kind)
    allowed = inspect.signature(layer_type).parameters.keys() - _NOT_DESCRIBED
    if foreign := arguments.keys() - allowed:
        raise ValueError(f"{kind} takes no {min(foreign)!r} from a file")
    with torch.device("meta"):  # weights follow from the file
        layer: nn.Module = layer_type(**arguments)
    return layer


def _place(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that owns what has this qualified name, made if it is missing, and the last name."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no qualified name")
    *names, leaf = path.split(".")
    for name in names:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root, leaf


def _build_graph(
    architecture: dict[str, Any], root: nn.Module, tensors: Collection[str], limit: int
) -> fx.Graph:
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for op, target, encoded_args, *encoded_kwargs in architecture["nodes"]:
        args = tuple(_decode(encoded_args, nodes))
        kwargs = _decode(encoded_kwargs[0], nodes) if encoded_kwargs else {}
        if math.prod(abs(number) or 1 for number in _numbers([args, kwargs])) > limit:
            raise ValueError(f"a call of {target!r} has numbers larger than {limit:,}")
        called, allowed = target, frozenset[str]()
        if op in {"call_function", "call_method"}:
            if target not in (_FUNCTIONS if op == "call_function" else _METHODS):
                raise ValueError(f"{target!r} is no function or method that a file may name")
            called, allowed = _FUNCTIONS.get(target, target), _keywords(op, target)
            if called is getattr and args[1] not in _ATTRIBUTES:
                raise ValueError(f"attribute {args[1]!r} is not allowed")
            if target == "to" and any(isinstance(each, str) for each in args):
                raise ValueError(f"a file may not name the device {args[-1]!r}")
        elif op == "call_module":  # any other attribute could be a method, such as `to_folder`
            if target not in architecture["layers"]:
                raise ValueError(f"{target!r} is no layer of the file")
            allowed = frozenset(inspect.signature(root.get_submodule(target).forward).parameters)
        elif op == "get_attr":
            if target not in tensors:
                raise ValueError(f"{target!r} is no tensor of the file")
        elif op == "placeholder":
            _checked(target)
        elif op != "output":
            raise ValueError(f"unknown operation {op!r}")
        if foreign := kwargs.keys() - allowed:
            raise ValueError(f"{target!r} takes no keyword {min(foreign)!r}")
        nodes.append(graph.output(args[0]) if op == "output" else graph.create_node(op, called, args, kwargs))
    graph.lint()
    return graph


@cache
def _keywords(op: str, target: str) -> frozenset[str]:
    """Return the keywords of a function or method: by its signature, or by torch's own schemas."""
    named: Collection[str] = ()
    if op == "call_function":
        with suppress(ValueError):  # written in C
            named = inspect.signature(_FUNCTIONS[target]).parameters
    packet = getattr(torch.ops.aten, target.rpartition(".")[2], None)
    overloads = [] if packet is None else [getattr(packet, key) for key in packet.overloads()]
    schemas = {argument.name for overload in overloads for argument in overload._schema.arguments}
    return (frozenset(named) | schemas | _PYTHON_KEYWORDS) - _NO_KEYWORDS
