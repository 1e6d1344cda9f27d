"""One weight file into another: format and names."""

from pathlib import Path

import torch

from densekit.files.atomic import atomic_write
from densekit.weights.formats import read_checkpoint
from densekit.weights.parts import find_layout


def convert_file(source: Path, target: Path) -> tuple[str, int]:
    """Reads a weight file and writes its tensors under densekit's names.

    Args:
        source: of any format that ``read_checkpoint`` reads. Optimizer states and the like are left behind.
        target: ``.pth`` or ``.safetensors``; written in full or not at all.

    Returns:
        What layout the names were of, and how many tensors were written.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: the source is damaged or its layout has names that are not known, or the target's suffix is neither.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist.")
    if target.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{target}: the suffix says the format to write, .pth or .safetensors, not {target.suffix!r}.")
    checkpoint = read_checkpoint(source)
    if checkpoint.get("matching_heuristics"):
        raise ValueError(
            f"{source} names parts of a model and not a whole one; which part is where is only known with a model. "
            "Load it as MODEL.WEIGHTS; the checkpoint of that run has the full names."
        )
    weights = {name.removeprefix("module."): value for name, value in checkpoint["model"].items()}
    layout = find_layout(weights)
    if layout:
        weights = layout.convert(weights)
    with atomic_write(target, "wb") as file:
        if target.suffix == ".pth":
            torch.save({"model": weights}, file)
        else:
            from safetensors.torch import save

            # Each in memory of its own: the format has no tensors that share it.
            file.write(save({name: value.detach().clone().contiguous() for name, value in weights.items()}))
    return layout.name if layout else "names kept", len(weights)
