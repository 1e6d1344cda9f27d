"""Writing a checkpoint folder: every file in full or not at all, the pointer to the newest last."""

import os
from typing import Any

import torch

from densekit.files.atomic import atomic_write


def write_checkpoint(folder: str, name: str, data: dict[str, Any], *, newest: bool = True) -> str:
    """Writes ``<folder>/<name>.pth``, then names it in ``last_checkpoint``.

    Args:
        folder: exists.
        name: of the file, without the suffix.
        data: tensors and plain data.
        newest: whether ``last_checkpoint`` is to name it.

    Returns:
        The path of the file.
    """
    path = os.path.join(folder, f"{name}.pth")
    with atomic_write(path, "wb") as file:
        torch.save(data, file)
    if newest:
        with atomic_write(os.path.join(folder, "last_checkpoint")) as file:
            file.write(f"{name}.pth")
    return path
