"""Batch norm over single values, in one sentence: the layer by its name, and what to change.

Set-up refuses the heads of which it is known beforehand (``norms_of_single_values``). Any other layer that sees a map
of 1 x 1 of one image, as behind an image pooling or at the coarsest stride of a small crop, is met in the first step
only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from densekit.engine.errors import DataError

__all__ = ["single_values_named"]

_TORCHS_WORDS = "Expected more than 1 value per channel"


@contextmanager
def single_values_named(model: nn.Module) -> Iterator[None]:
    """Names the norm of ``model`` that refuses single values within the block.

    Raises:
        DataError: A batch norm got one value of each channel.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(_TORCHS_WORDS):
            raise
        name = _name_of_norm(model, error)
        key = "MODEL.SEM_SEG_HEAD.NORM" if name.startswith("sem_seg_head.") else "the NORM key of that part"
        size = str(error).partition("got input size ")[2]
        raise DataError(
            f"The batch norm {name or 'of the model'} got one value of each channel ({size}), and has no mean of "
            f"several. Set {key} to GN or FrozenBN, or give more images to a pass (SOLVER.IMS_PER_BATCH, fewer "
            "parts by SOLVER.ACCUMULATE; SyncBN counts those of all processes), or larger pictures "
            "(INPUT.MIN_SIZE_TRAIN, INPUT.CROP.SIZE)."
        ) from error


def _name_of_norm(model: nn.Module, error: BaseException) -> str:
    """The path in ``model`` of the innermost module that the error passed; empty where it is none of its modules."""
    names = {id(module): name for name, module in model.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), "") or found
        trace = trace.tb_next
    return found.removeprefix("module.")  # of a model that is spread over processes
