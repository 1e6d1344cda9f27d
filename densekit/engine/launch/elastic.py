"""Processes that torchrun starts anew after one has failed (``--max-restarts``) go on where the job was."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from densekit.run_options import RunOptions

__all__ = ["continued", "refuse_ambiguous_restarts"]


def continued(options: Any, env: Mapping[str, str]) -> Any:
    """The options of a job; with ``resume`` "auto" for a training that torchrun has started before."""
    restarts = int(env.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not restarts or not isinstance(options, RunOptions) or options.resume != "never" or options.eval_only:
        return options
    return replace(options, resume="auto")


def refuse_ambiguous_restarts(output_dir: str) -> None:
    """Refuses a new training in a folder with a checkpoint where torchrun may start it again.

    Raises:
        ValueError: it may; a restart could not tell that checkpoint from its own.
    """
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise ValueError(
            f"OUTPUT_DIR {output_dir!r} holds the checkpoint of another run, with which torchrun's restarts would go "
            "on: choose another OUTPUT_DIR, go on with it from the start (--resume), or use --max-restarts 0."
        )
