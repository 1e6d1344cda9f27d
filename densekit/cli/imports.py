"""Imports of torch, the engine and the projects, without Python's collector of garbage in between."""

import gc
import sys
from importlib import import_module


def import_engine() -> None:
    """Imports the parts of densekit that every command with a model needs, once in a process.

    Modules stay until the process ends. Looking through torch's again and again while more of them are imported takes
    more than a second, and each full collection of a training would take a third of one.
    """
    if "densekit.engine.setup" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        import_module("densekit.engine.setup")
        dict(import_module("densekit.projects").rooms())
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
