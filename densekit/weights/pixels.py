"""The pixels that published weights were trained on, as far as their layout tells, against those that a model gets."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["IMAGENET_RGB", "Pixels", "mismatch"]

_CLOSE = 0.5  # of 255: files and configurations round differently


@dataclass(frozen=True)
class Pixels:
    """The preprocessing of a checkpoint.

    Attributes:
        order: "RGB" or "BGR".
        mean: of each channel in that order, 0 to 255.
        deviation: of each channel in that order, 0 to 255.
    """

    order: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


IMAGENET_RGB = Pixels("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's, which most code has


def mismatch(
    found: Collection[Pixels], order: str, mean: Sequence[float], deviation: Sequence[float], what: str
) -> str:
    """Says that a model gets other pixels than its weights were trained on.

    Args:
        found: What the weights were trained on; none says nothing.
        order: INPUT.FORMAT.
        mean: MODEL.PIXEL_MEAN.
        deviation: MODEL.PIXEL_STD.
        what: The weights, for the message.

    Returns:
        A sentence with the keys to set, or "" where all is well or nobody knows.
    """
    for one in found:
        ours, theirs = [*mean, *deviation], [*one.mean, *one.deviation]
        alike = len(ours) == len(theirs) and all(abs(a - b) < _CLOSE for a, b in zip(ours, theirs))
        if alike and order == one.order:
            continue
        return (
            f"PIXELS DIFFER: {what} were trained with INPUT.FORMAT {one.order}, MODEL.PIXEL_MEAN {list(one.mean)} and "
            f"MODEL.PIXEL_STD {list(one.deviation)}; this configuration has {order}, {list(mean)} and "
            f"{list(deviation)}. Set these keys, or the model begins with features that fit other pictures."
        )
    return ""
