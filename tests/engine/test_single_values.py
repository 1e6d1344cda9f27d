"""Batch norm over single values is told by the name of the layer, whichever head pools to 1 x 1."""

import pytest
import torch
from torch import nn

from densekit.engine.errors import DataError
from densekit.engine.failed_forward import TrainingForward


class _Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.project(x.mean(dim=(2, 3), keepdim=True))


class _Model(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.add_module(part, _Head())

    def forward(self, batch):
        (head,) = self.children()
        return {"loss": head(batch).sum()}


@pytest.mark.parametrize(
    ("part", "key"), [("sem_seg_head", "MODEL.SEM_SEG_HEAD.NORM"), ("backbone", "the NORM key of that part")]
)
def test_the_norm_and_the_remedies_are_named(part, key):
    with pytest.raises(DataError, match=rf"{part}\.project\.1 got one value .*Set {key} to GN .*IMS_PER_BATCH"):
        TrainingForward(_Model(part), shares=False)(torch.rand(1, 3, 8, 8))


def test_two_images_are_enough():
    losses, error = TrainingForward(_Model("sem_seg_head"), shares=False)(torch.rand(2, 3, 8, 8))
    assert losses["loss"].isfinite() and not error


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="channels"):
        TrainingForward(_Model("sem_seg_head"), shares=False)(torch.rand(2, 5, 8, 8))
