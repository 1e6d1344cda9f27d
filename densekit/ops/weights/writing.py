"""Writing a checkpoint folder: every file in full or not at all, the pointer to the newest last."""

import os
from typing import Any

import torch

from densekit.ops.files import atomic_write


def write_checkpoint(
    folder: str,
    name: str,
    model: torch.nn.Module,
    others: dict[str, Any],
    extra: dict[str, Any],
    *,
    newest: bool = True,
) -> str:
    """Writes ``<folder>/<name>.pth``, then names it in ``last_checkpoint``.

    Args:
        folder: exists.
        name: of the file, without the suffix.
        model: its state goes under ``"model"``.
        others: key -> object with ``state_dict()``, whose state goes under the key.
        extra: key -> value, stored as it is.
        newest: whether ``last_checkpoint`` is to name it.

    Returns:
        The path of the file.
    """
    data = {"model": model.state_dict()} | {key: item.state_dict() for key, item in others.items()} | extra
    path = os.path.join(folder, f"{name}.pth")
    with atomic_write(path, "wb") as file:
        torch.save(data, file)
    if newest:
        with atomic_write(os.path.join(folder, "last_checkpoint")) as file:
            file.write(f"{name}.pth")
    return path
