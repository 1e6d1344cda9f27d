"""FID and LPIPS of painted pictures, by torchmetrics.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (arXiv 1706.08500); Zhang et al., "The Unreasonable
Effectiveness of Deep Features as a Perceptual Metric" (arXiv 1801.03924). Their networks have published weights, which
the libraries download when they are used first; nothing is downloaded unless one of them is asked for by name.

H, W: size of a picture.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from densekit.ops.packages import MissingPackageError

_NEEDS = {"FID": ("torchmetrics", "torch_fidelity"), "LPIPS": ("torchmetrics",)}


class Distance:
    """A number about all pictures of an evaluation, in all its processes.

    Args:
        metric: of torchmetrics.
        update: gives it a painted picture and the true one, both (1, 3, H, W) uint8, RGB.
    """

    def __init__(self, metric: Any, update: Callable[[Any, Tensor, Tensor], None]) -> None:
        self._metric, self._update = metric, update

    def reset(self) -> None:
        self._metric.reset()

    def add(self, painted: Tensor, truth: Tensor) -> None:
        """Takes in one picture, (3, H, W) uint8, RGB."""
        with torch.no_grad():
            self._update(self._metric, painted[None].cpu(), truth[None].cpu())

    def value(self) -> float:
        """Returns the number; every process takes part."""
        return float(self._metric.compute())


def update_fid(metric: Any, painted: Tensor, truth: Tensor) -> None:
    """Adds a picture to both distributions."""
    metric.update(truth, real=True)
    metric.update(painted, real=False)


def update_lpips(metric: Any, painted: Tensor, truth: Tensor) -> None:
    """Adds the distance of a pair, whose values become 0..1."""
    metric.update(painted / 255, truth / 255)


def build_distances(names: Sequence[str]) -> dict[str, Distance]:
    """Returns the distances of MODEL.INPAINTING.DISTANCES by their names.

    Raises:
        ValueError: There is no such distance.
        MissingPackageError: A library is missing.
    """
    check_distances(names)
    return {name: _build(name) for name in names}


def check_distances(names: Sequence[str]) -> None:
    """Refuses what could not be built at the first evaluation, before a training.

    Raises:
        ValueError: There is no such distance.
        MissingPackageError: A library is missing.
    """
    if unknown := [name for name in names if name not in _NEEDS]:
        raise ValueError(f"MODEL.INPAINTING.DISTANCES {unknown}: it can have {' and '.join(_NEEDS)}.")
    for name in names:
        if missing := [package for package in _NEEDS[name] if find_spec(package) is None]:
            raise MissingPackageError(
                f"MODEL.INPAINTING.DISTANCES {name} needs {' and '.join(missing)}: pip install 'densekit[inpainting]'"
            )


def _build(name: str) -> Distance:
    if name == "FID":
        from torchmetrics.image.fid import FrechetInceptionDistance

        return Distance(FrechetInceptionDistance(feature=2048), update_fid)
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return Distance(LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True), update_lpips)
