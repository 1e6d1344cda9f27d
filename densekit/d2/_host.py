"""Choice of the host of this process: the real Detectron2, or the built-in runtime.

``DENSEKIT_HOST`` chooses: ``auto`` (default: Detectron2 where it is installed), ``detectron2`` or ``builtin``. A
Detectron2 that is found but does not import is an error, never a silent change of host: the numbers of a run must not
depend on a broken install.
"""

import importlib
import importlib.util
import os
from typing import Final

_CHOICES = ("auto", "detectron2", "builtin")


def _choose_host() -> str:
    """Returns ``"detectron2"`` or ``"builtin"``.

    Raises:
        ValueError: ``DENSEKIT_HOST`` is none of the three choices.
        ImportError: Detectron2 was asked for and is missing, or is installed and does not import.
    """
    wanted = os.environ.get("DENSEKIT_HOST", "auto").strip().lower() or "auto"
    if wanted not in _CHOICES:
        raise ValueError(f"DENSEKIT_HOST={wanted!r} is not one of {', '.join(_CHOICES)}.")
    if wanted == "builtin":
        return "builtin"
    if importlib.util.find_spec("detectron2") is None:
        if wanted == "auto":
            return "builtin"
        raise ImportError(
            "DENSEKIT_HOST=detectron2, but Detectron2 is not installed in this environment. Install it, or set "
            "DENSEKIT_HOST=builtin to run on the runtime that comes with densekit."
        )
    try:
        # The compiled part is what breaks when torch is exchanged under an existing build.
        importlib.import_module("detectron2._C")
        importlib.import_module("detectron2.modeling")
    except Exception as error:
        raise ImportError(
            f"Detectron2 is installed but does not import ({type(error).__name__}: {error}). Rebuild it against the "
            "installed torch, or set DENSEKIT_HOST=builtin to run on the runtime that comes with densekit."
        ) from error
    return "detectron2"


HOST: Final[str] = _choose_host()
