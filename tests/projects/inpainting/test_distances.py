"""FID and LPIPS through torchmetrics, with a small network in the place of Inception."""

import numpy as np
import pytest
import torch
from torch import nn

from densekit.ops.packages import MissingPackageError
from densekit.projects.inpainting.distances import Distance, build_distances, update_fid


class Means(nn.Module):
    """Features of a picture: the means of its channels."""

    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean((2, 3))


def pictures(seed, count=12):
    return torch.randint(0, 256, (count, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_fid_is_the_distance_of_two_gaussians():
    linalg = pytest.importorskip("scipy.linalg")
    fid = pytest.importorskip("torchmetrics.image.fid")
    painted, truth = pictures(1), pictures(2) // 2
    distance = Distance(fid.FrechetInceptionDistance(feature=Means()), update_fid)
    for one, other in zip(painted, truth):
        distance.add(one, other)
    a, b = (x.double().mean((2, 3)).numpy() for x in (painted, truth))
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert distance.value() == pytest.approx(expected, rel=1e-3)
    distance.reset()
    for one in painted:
        distance.add(one, one)
    assert distance.value() == pytest.approx(0, abs=1e-2)


def test_an_unknown_distance_is_named():
    with pytest.raises(ValueError, match=r"\['KID'\]: it can have FID and LPIPS"):
        build_distances(["FID", "KID"])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("densekit.projects.inpainting.distances.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"FID needs torchmetrics and torch_fidelity.*densekit\[inpainting\]"):
        build_distances(["FID"])
