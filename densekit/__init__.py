"""densekit: published detection and segmentation systems for Detectron2's interfaces, with or without Detectron2.

``load_model``, ``optimize``, ``Predictor``, ``register_dataset``, ``train`` and ``evaluate`` are the Python interface;
they are imported when they are first asked for, so that ``import densekit`` needs no torch.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densekit.api import evaluate, train
    from densekit.data.own import register_dataset
    from densekit.deploy import optimize
    from densekit.inference.predictor import Predictor, load_model

__all__ = ["Predictor", "__version__", "evaluate", "load_model", "optimize", "register_dataset", "train"]

__version__ = "0.2.0"

_HOMES = {
    "Predictor": "inference.predictor",
    "evaluate": "api",
    "load_model": "inference.predictor",
    "optimize": "deploy",
    "register_dataset": "data",
    "train": "api",
}

# fvcore compiles a loss with TorchScript when it is imported; newer torch tells every user so, who cannot change it.
warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*deprecated", category=Warning)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
