"""Serialise the architecture of a traced network as JSON, and build it again.

Only what is on the lists below is ever called when a network is built from a file: torch's own layers,
functions and tensor methods, none of which reads or writes anything but tensors. `torch.fx` writes the graph
out as the text of a `forward`. Every name in it is therefore checked: a keyword is one that its target takes,
an attribute is a layer or a tensor of the file, an argument's name is an identifier. Values reach the text
by their `repr`.
"""

import inspect
import keyword
import operator
import re
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from secateur.errors import ArtifactError, InvalidArgumentError

__all__ = ["DTYPES", "build", "describe"]

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
_METHODS = (
    "add sub mul div matmul bmm view reshape flatten unflatten permute transpose swapaxes movedim squeeze "
    "unsqueeze expand expand_as view_as reshape_as repeat chunk split unbind contiguous clone detach "
    "float double half bfloat16 to type_as long int bool mean sum amax amin max min var std softmax "
    "log_softmax relu relu_ tanh tanh_ sigmoid sigmoid_ exp log sqrt rsqrt abs square pow clamp clamp_min "
    "sin cos size dim numel t index_select gather masked_fill where roll flip argmax add_ mul_ sub_ div_ "
    "neg reciprocal new_zeros new_ones logsumexp erf narrow select unfold tril triu"
)
_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT"})

_FUNCTIONS: dict[str, Any] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS.split()},
    **{f"torch.{name}": getattr(torch, name) for name in _TORCH.split()},
    **{f"F.{name}": getattr(F, name) for name in _FUNCTIONALS.split()},
    "getattr": getattr,
}
_NAMES = {id(function): name for name, function in reversed(_FUNCTIONS.items())}
_ATTENTION_FLAGS = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}
DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_NOT_DESCRIBED = frozenset({"device", "dtype", "args", "kwargs"})
_PYTHON_KEYWORDS = frozenset({"input", "axis", "keepdims", "return_indices", "memory_format"})
_PATH = re.compile(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


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
            target = _NAMES.get(id(node.target))
            if target is None:
                raise InvalidArgumentError(
                    _unknown("function", getattr(node.target, "__name__", node.target))
                )
        elif node.op == "call_method" and target not in _METHODS.split():
            raise InvalidArgumentError(_unknown("tensor method", target))
        is_plain_call = node.op in {"call_function", "call_method"}
        if is_plain_call and (foreign := node.kwargs.keys() - _keywords(node.op, target)):
            raise InvalidArgumentError(_unknown("keyword", f"{min(foreign)} of {target}"))
        entry = [node.op, target, _encode(list(node.args), numbers)]
        nodes.append([*entry, _encode(node.kwargs, numbers)] if node.kwargs else entry)
    return {"class": type(network).__name__, "layers": layers, "nodes": nodes}


def _unknown(kind: str, name: object) -> str:
    return f"expected torch's own layers, functions and methods, got the {kind} {name}: save with factory=..."


def _describe_layer(path: str, layer: nn.Module) -> list[Any]:
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind:
        raise InvalidArgumentError(_unknown("layer", f"{path} ({kind.__qualname__})"))
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in _NOT_DESCRIBED:
            continue
        if isinstance(layer, nn.MultiheadAttention) and name in _ATTENTION_FLAGS:
            value = getattr(layer, _ATTENTION_FLAGS[name]) is not None
        elif name == "bias":
            value = getattr(layer, "bias", None) is not None
        elif hasattr(layer, name):
            value = getattr(layer, name)
        else:
            if parameter.default is inspect.Parameter.empty or not name.startswith("_"):
                raise InvalidArgumentError(
                    _unknown("layer", f"{path} ({kind.__name__}, whose {name} it does not keep)")
                )
            continue
        if value != parameter.default:
            arguments[name] = _encode(value, {})
    return [kind.__name__, arguments]


def _encode(value: Any, numbers: dict[fx.Node, int]) -> Any:
    """Return an argument as JSON can hold it; what is not a plain value becomes an object of one key."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else {"float": str(value)}
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
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise InvalidArgumentError(_unknown("argument", repr(value)))


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
    if kind == "device":
        return torch.device(content)
    raise ValueError(f"unknown kind of argument {kind}")


def build(
    architecture: dict[str, Any], tensors: dict[str, torch.Tensor], parameters: set[str]
) -> fx.GraphModule:
    """Return a network from its description and its tensors, in evaluation mode.

    Args:
        architecture: What `describe` returned.
        tensors: Every parameter and buffer, by qualified name.
        parameters: Which of them are parameters.

    Returns:
        The network.

    Raises:
        ArtifactError: If the description is damaged, asks for what is not on the lists, or does not fit
            the tensors.
    """
    try:
        root = nn.Module()
        for path, (kind, arguments) in architecture["layers"].items():
            owner, leaf = _place(root, path)
            owner.add_module(leaf, _build_layer(kind, _decode({"dict": arguments}, [])))
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
        graph = _build_graph(architecture["nodes"], root, architecture["layers"].keys(), tensors.keys())
        network = fx.GraphModule(root, graph, _checked(architecture["class"]))
        missing = [name for name, tensor in network.state_dict().items() if tensor.is_meta]
        if missing:
            raise ValueError(f"no values for {', '.join(missing)}")
        return network.eval()
    except Exception as error:  # torch's layers and the compiler raise whatever suits arguments that do not
        reason = " ".join(str(error).split())
        raise ArtifactError(f"expected the description of a network, got a damaged one: {reason}") from error


def _checked(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no identifier")
    return name


def _build_layer(kind: str, arguments: dict[str, Any]) -> nn.Module:
    layer_type = getattr(nn, _checked(kind))
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)) or issubclass(
        layer_type, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    ):
        raise ValueError(f"{kind} is no layer of torch.nn")
    if foreign := arguments.keys() - inspect.signature(layer_type).parameters.keys() | (
        arguments.keys() & _NOT_DESCRIBED
    ):
        raise ValueError(f"{kind} takes no {min(foreign)!r} from a file")
    with torch.device("meta"):  # weights follow from the file
        return layer_type(**arguments)


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
    description: list[list[Any]], root: nn.Module, layers: Collection[str], tensors: Collection[str]
) -> fx.Graph:
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for op, target, encoded_args, *encoded_kwargs in description:
        args = tuple(_decode(encoded_args, nodes))
        kwargs = _decode(encoded_kwargs[0], nodes) if encoded_kwargs else {}
        called, allowed = target, frozenset[str]()
        if op == "call_function":
            called, allowed = _FUNCTIONS[target], _keywords(op, target)
            if called is getattr and args[1] not in _ATTRIBUTES:
                raise ValueError(f"attribute {args[1]!r} is not allowed")
        elif op == "call_method":
            if target not in _METHODS.split():
                raise ValueError(f"method {target!r} is not allowed")
            allowed = _keywords(op, target)
        elif op == "call_module":  # any other attribute could be a method, such as `to_folder`
            if target not in layers:
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
    return frozenset(named) | schemas | _PYTHON_KEYWORDS
