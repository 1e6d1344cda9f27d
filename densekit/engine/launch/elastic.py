"""Processes that torchrun starts anew after one has failed (``--max-restarts``) go on where the job was."""

import os
from argparse import Namespace
from collections.abc import Mapping

__all__ = ["continued", "refuse_ambiguous_restarts"]


def continued(args: Namespace, env: Mapping[str, str]) -> Namespace:
    """The command line, with ``--resume auto`` for a training that torchrun has started before."""
    restarts = int(env.get("TORCHELASTIC_RESTART_COUNT", "0"))
    trains = getattr(args, "resume", None) == "never" and not args.eval_only
    return Namespace(**{**vars(args), "resume": "auto"}) if restarts and trains else args


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
