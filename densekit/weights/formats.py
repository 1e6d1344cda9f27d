"""Readers of weight files. None of them runs code from the file.

- ``.pth`` / ``.pt`` / ``.bin``: torch.save, read with ``weights_only=True``; of a pickled module the tensors.
- ``.pkl``: the model zoos of Detectron2, Detectron (Caffe2) and MSRA; numpy arrays in plain containers.
- ``.pyth``: pycls.
- ``.safetensors``.
"""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densekit.files.unpickling import (
    ArrayUnpickler,
    RecordPickle,
    UnsafePickleError,
    is_module,
    module_tensors,
    safe_beside_weights,
)

_REFUSED = (
    "{path}: the file asks for {what}, and a weight file may hold tensors, arrays, numbers, strings and plain "
    "containers only. Loading it would run code from the file. In an environment where you trust it, save the bare "
    "state dict with torch.save(model.state_dict(), ...) and load that."
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a weight file of any known format.

    Args:
        path: a local file; the suffix chooses the format.

    Returns:
        ``"model"``: name -> tensor on the CPU; ``"matching_heuristics"``, where it is true: names are to be matched by
        suffix, because the file's author named parts and not whole models; and what else the file holds
        (``"trainer"``, ``"iteration"``, ``"__author__"`` ...).

    Raises:
        ValueError: the file needs more than plain data, is damaged, or holds no weights.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".pkl": _read_zoo_pickle,
        ".pyth": _read_pycls,
        ".safetensors": _read_safetensors,
    }
    checkpoint = readers.get(path.suffix, _read_torch)(path)
    checkpoint["model"] = _as_tensors(checkpoint["model"], path)
    return checkpoint


def _read_torch(path: Path) -> dict[str, Any]:
    data = _load_torch(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a state dict or a checkpoint, found a {type(data).__name__}.")
    if isinstance(data.get("model"), dict):
        return dict(data)
    # Training scripts of the torchvision and timm lineage call it state_dict.
    return {"model": data["state_dict"] if isinstance(data.get("state_dict"), dict) else data}


def _pickled_module(path: Path) -> dict[str, Any] | None:
    """The weights of a file that pickles a whole module, or None if there is none in it.

    Classes of the file become inert records, whose tensors are collected by path. Of an average and the weights in
    training, "ema" and "model" of the YOLO lineage, the average is taken.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=False, pickle_module=RecordPickle)
    except (*ArrayUnpickler.DAMAGED, AssertionError, RuntimeError):
        return None  # it needs more than to be kept
    places = [data.get(key) for key in ("ema", "model")] if isinstance(data, dict) else [data]
    module = next((place for place in places if is_module(place)), None)
    return None if module is None else {"model": module_tensors(module)}


def _load_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(safe_beside_weights()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        module = _pickled_module(path) if not isinstance(error.__context__, UnsafePickleError) else None
        if module is not None:
            return module
        raise ValueError(_REFUSED.format(path=path, what=_named_global(error))) from error
    except (*ArrayUnpickler.DAMAGED, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or not a file of torch.save ({error}).") from error


def _named_global(error: Exception) -> str:
    """Returns the name of the refused global, or the first line of torch's long message."""
    if isinstance(error.__context__, UnsafePickleError):
        return str(error.__context__)
    match = re.search(r"GLOBAL (\S+)", str(error))
    return match[1] if match else str(error).splitlines()[0]


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {"model": load_file(path)}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error}).") from error


def _read_pycls(path: Path) -> dict[str, Any]:
    data = _load_torch(path)
    if not isinstance(data, dict) or "model_state" not in data:
        raise ValueError(f"{path}: a .pyth file of pycls holds 'model_state', this one does not.")
    model = {name: value for name, value in data["model_state"].items() if not name.endswith("num_batches_tracked")}
    return {"model": model, "__author__": "pycls", "matching_heuristics": True}


def _read_zoo_pickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        try:
            data = ArrayUnpickler(file).load()
        except UnsafePickleError as error:
            raise ValueError(_REFUSED.format(path=path, what=error)) from error
        except ArrayUnpickler.DAMAGED as error:
            raise ValueError(f"{path}: damaged, or not a pickle of a model zoo ({error}).") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a dictionary of arrays, found a {type(data).__name__}.")
    if "model" in data and "__author__" in data:
        return data
    blobs = data.get("blobs", data)  # Caffe2: detectors nest their blobs, classifiers do not
    model = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _as_tensors(model: Any, path: Path) -> dict[str, torch.Tensor]:
    """The same mapping with tensors; what is no array is named."""
    if not isinstance(model, dict) or not model:
        raise ValueError(f"{path}: holds no weights.")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in model.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            value = value.astype(value.dtype.newbyteorder("="), copy=False)  # torch takes this machine's order only
            value = torch.from_numpy(np.require(np.asarray(value), requirements=["C", "W"]))
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: entry {name!r} is a {type(value).__name__}, and weights are tensors or arrays.")
        tensors[str(name)] = value
    return tensors
