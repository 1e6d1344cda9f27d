"""The anchors of the authors' weights, against known numbers and the rule written out."""

import numpy as np
import pytest
import torch

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling.anchor_generator import build_anchor_generator
from densekit.projects.mask_scoring.anchors import whole_pixel_anchors


def written_out(stride, size, ratios):
    """py-faster-rcnn's rule: a square of the stride, its ratios in whole pixels, then the scale; ends are inside."""
    centre, area = (stride - 1) / 2, stride * stride
    rows = []
    for ratio in ratios:
        width = np.round(np.sqrt(area / ratio))
        height = np.round(width * ratio)
        width, height = width * size / stride, height * size / stride
        rows.append([centre - (width - 1) / 2, centre - (height - 1) / 2,
                     centre + (width - 1) / 2, centre + (height - 1) / 2])  # fmt: skip
    return np.array(rows)


def test_the_known_anchors_of_the_finest_level():
    """maskrcnn-benchmark's own example: size 32 at stride 4, ratio 0.5."""
    expected = torch.tensor([-22.0, -10.0, 25.0, 13.0])
    ours = whole_pixel_anchors(4, [32], [0.5])[0] + 2 - torch.tensor([0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("stride", "size"), [(4, 32), (8, 64), (16, 128), (32, 256), (64, 512)])
def test_the_rule(stride, size):
    ratios = (0.5, 1.0, 2.0)
    ours = whole_pixel_anchors(stride, [size], ratios).numpy() + stride / 2 - np.array([0, 0, 1, 1])
    np.testing.assert_allclose(ours, written_out(stride, size, ratios))


def test_the_configuration_of_the_authors_weights_has_them():
    cfg = load_config("configs/mask_scoring/mask_scoring_R_50_FPN_1x_authors.yaml", [])
    shapes = [ShapeSpec(channels=8, stride=stride) for stride in (4, 8, 16, 32, 64)]
    anchors = build_anchor_generator(cfg, shapes)([torch.zeros(1, 8, 2, 3) for _ in shapes])
    first = anchors[0].tensor[: 2 * 3 * 3].reshape(2, 3, 3, 4)
    expected = torch.tensor([-22.0, -10.0, 26.0, 14.0])
    torch.testing.assert_close(first[0, 0, 0], expected)
    torch.testing.assert_close(first[1, 2, 0], expected + torch.tensor([8.0, 4.0, 8.0, 4.0]))
