"""Files of exported models: made of a graph that takes any size, opened and run.

    .onnx  an ONNX graph, for ONNX Runtime and whatever else reads ONNX
    .xml   an OpenVINO model, with its weights in a file of the same name that ends in .bin
    .pt2   a program of torch.export, for torch alone

All carry one JSON text under the name "densekit", of what the file takes, gives and was made of.
"""

import importlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densekit.files.atomic import atomic_write
from densekit.ops.packages import MissingPackageError

__all__ = [
    "SUFFIXES",
    "Content",
    "Runner",
    "made",
    "metadata",
    "opened",
    "openvino_of",
    "read",
    "required",
    "session_of",
    "write",
]

# The inputs of the graph -> its outputs
Runner = Callable[[Sequence[Tensor]], list[Tensor]]
# Suffix -> bytes, the file that gives the name last
Content = dict[str, bytes]

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "program": ".pt2"}
_MOST = 16384  # side of an image, pixels
_OPSET = 20
_KEY = "densekit"
_WEIGHTS = ".bin"  # of OpenVINO


def read(path: Path) -> Content:
    """Reads a file, and the one that belongs to it.

    Raises:
        FileNotFoundError: There is none.
    """
    suffixes = [*([_WEIGHTS] if path.suffix == SUFFIXES["openvino"] else []), path.suffix]
    for suffix in suffixes:
        if not path.with_suffix(suffix).is_file():
            raise FileNotFoundError(f"{path.with_suffix(suffix)} does not exist.")
    return {suffix: path.with_suffix(suffix).read_bytes() for suffix in suffixes}


def write(path: Path, content: Content) -> None:
    """Writes the files of an exported model, each whole or not at all."""
    for suffix, data in content.items():
        with atomic_write(path.with_suffix(suffix), "wb") as file:
            file.write(data)


def made(graph: nn.Module, target: str, image: Tensor, size: tuple[int, int], about: Mapping[str, Any]) -> Content:
    """Returns the content of an exported model.

    Args:
        graph: of :func:`densekit.deploy.graphs.graph_of`.
        target: a key of :data:`SUFFIXES`.
        image: (C, H, W) with sides that no result may depend on.
        size: height and width of the picture in it.
        about: what the file says of itself, for JSON.

    Raises:
        MissingPackageError: A package is missing; the message has the command that installs it.
        ValueError: The model cannot be traced, or not for any size.
    """
    packages = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino"), "program": ()}
    for package in packages[target]:
        required(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's, about its own operators
        return _made(graph, target, image, size, about)


def _made(graph: nn.Module, target: str, image: Tensor, size: tuple[int, int], about: Mapping[str, Any]) -> Content:
    program, text = _traced(graph, image, size, about), json.dumps(about)
    if target == "program":
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={_KEY: text})
        return {SUFFIXES[target]: file.getvalue()}
    graph_file = _onnx_graph(program, about)
    graph_file.model.metadata_props[_KEY] = text
    data = graph_file.model_proto.SerializeToString()
    return {SUFFIXES["onnx"]: data} if target == "onnx" else openvino_of(data, text)


def _traced(graph: nn.Module, image: Tensor, size: tuple[int, int], about: Mapping[str, Any]) -> Any:
    multiple = about["input"]["placement"]["multiple"]
    least, most = -(-about["input"]["least_side"] // multiple), _MOST // multiple
    height, width = (torch.export.Dim(name, min=least, max=most) for name in ("height", "width"))
    sides = {1: height, 2: width} if multiple == 1 else {1: multiple * height, 2: multiple * width}
    given = {"image": image, "size": torch.tensor(size, dtype=torch.float32)}
    shapes: dict[str, Any] = {"image": sides, "size": None}
    try:
        with torch.no_grad():
            return torch.export.export(
                graph,
                tuple(given[name] for name in about["inputs"]),
                dynamic_shapes={name: shapes[name] for name in about["inputs"]},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,  # what cannot be proved of all sizes is asked of each
            )
    except Exception as error:  # of any kind, out of any depth of torch
        raise ValueError(
            f"torch.export cannot trace this model for any height and width: {_first_line(error)}"
        ) from error


def _onnx_graph(program: Any, about: Mapping[str, Any]) -> Any:
    names, outputs = list(about["inputs"]), list(about["outputs"])
    try:
        graph_file = torch.onnx.export(
            program, dynamo=True, opset_version=_OPSET, verbose=False, input_names=names, output_names=outputs
        )
    except Exception as error:
        raise ValueError(
            f"This model has an operation that ONNX {_OPSET} lacks: {_first_line(error.__cause__ or error)}"
        ) from error
    if graph_file is None:
        raise ValueError("torch.onnx.export gave no graph.")
    return graph_file


def metadata(model: Any) -> str:
    """The text that an ONNX model of ours carries, or ""."""
    return next((entry.value for entry in model.metadata_props if entry.key == _KEY), "")


def openvino_of(data: bytes, text: str) -> Content:
    """OpenVINO's two files of an ONNX graph, in float32."""
    openvino: Any = importlib.import_module("openvino")
    try:
        model = openvino.convert_model(io.BytesIO(data))
    except Exception as error:
        raise ValueError(f"OpenVINO cannot read this model's ONNX graph: {_first_line(error)}") from error
    model.set_rt_info(text, _KEY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{SUFFIXES['openvino']}"
        openvino.save_model(model, path, compress_to_fp16=False)
        return read(path)


def opened(content: Content, target: str, name: str = "The exported model") -> tuple[dict[str, Any], Runner]:
    """Opens an exported model on the CPU.

    Args:
        content: of :func:`made` or :func:`read`.
        target: a key of :data:`SUFFIXES`.
        name: for messages.

    Returns:
        What it says of itself, and a call that runs it.

    Raises:
        MissingPackageError: A package is missing.
        ValueError: It is damaged, or densekit has not made it.
    """
    openers = {"onnx": _open_onnx, "openvino": _open_openvino, "program": _open_program}
    try:
        text, run = openers[target](content)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{name} is damaged or no {target} file: {_first_line(error)}") from error
    if not text:
        raise ValueError(f"{name} says nothing of what it takes and gives; densekit export writes files that do.")
    return json.loads(text), run


def _open_onnx(content: Content) -> tuple[str, Runner]:
    session = session_of(content[SUFFIXES["onnx"]])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = session.run(None, {name: np.ascontiguousarray(x.numpy()) for name, x in zip(names, inputs)})
        return [torch.from_numpy(value) for value in found]

    return session.get_modelmeta().custom_metadata_map.get(_KEY, ""), run


def session_of(data: bytes, *, whole: bool = True) -> Any:
    """Returns a session of ONNX Runtime on the CPU, with torch's threads.

    Args:
        data: an ONNX graph.
        whole: let the runtime merge nodes; without it the outputs of all of them stay what they are.
    """
    onnxruntime = required("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if not whole:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])


def _open_openvino(content: Content) -> tuple[str, Runner]:
    openvino = required("openvino")
    core = openvino.Core()
    model = core.read_model(content[SUFFIXES["openvino"]], content[_WEIGHTS])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = compiled([np.ascontiguousarray(x.numpy()) for x in inputs])
        return [torch.from_numpy(np.array(found[entry])) for entry in compiled.outputs]

    return (model.get_rt_info(_KEY).astype(str) if model.has_rt_info(_KEY) else ""), run


def _open_program(content: Content) -> tuple[str, Runner]:
    extra = {_KEY: ""}
    module = torch.export.load(io.BytesIO(content[SUFFIXES["program"]]), extra_files=extra).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(module(*inputs))

    return extra[_KEY], run


def required(package: str) -> Any:
    """Imports a package that only exported files need.

    Raises:
        MissingPackageError: It is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = "openvino" if package == "openvino" else "export"
        raise MissingPackageError(f"These files need {package}: pip install 'densekit[{extra}]'") from error


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
