"""DeepLabV3+'s head against Detectron2's bundled project: parameter names, scores and losses."""

import pytest
import torch

from densekit.d2.layers import ShapeSpec
from densekit.projects.deeplab.head import DeepLabV3PlusSemanticHead
from tests.tolerances import PARITY

pytest.importorskip("detectron2")
deeplab = pytest.importorskip("detectron2.projects.deeplab.semantic_seg")
from detectron2.layers import ShapeSpec as TheirShapeSpec  # noqa: E402

WIDTHS = {"res2": (6, 4), "res3": (8, 8), "res5": (10, 16)}  # channels and stride


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("names", [["res2", "res5"], ["res2", "res3", "res5"]])
def test_head_is_that_of_detectron2(names, separable):
    low = len(names) - 1
    common = {"num_classes": 5, "project_channels": [3, 7][:low], "aspp_dilations": [1, 2, 3], "aspp_dropout": 0.0}
    common |= {"norm": "BN", "loss_weight": 0.5, "ignore_value": 255}
    theirs = deeplab.DeepLabV3PlusHead(
        {name: TheirShapeSpec(channels=WIDTHS[name][0], stride=WIDTHS[name][1]) for name in names},
        decoder_channels=[8] * low + [4],
        common_stride=4,
        train_size=None,
        use_depthwise_separable_conv=separable,
        **common,
    )
    ours = DeepLabV3PlusSemanticHead(
        {name: ShapeSpec(channels=WIDTHS[name][0], stride=WIDTHS[name][1]) for name in names},
        channels=8,
        aspp_channels=4,
        separable=separable,
        **common,
    )
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) / 2 + 0.1)
    ours.load_state_dict(theirs.state_dict())
    features = {name: torch.randn(2, WIDTHS[name][0], 64 // WIDTHS[name][1], 96 // WIDTHS[name][1]) for name in names}
    labels = torch.randint(0, 5, (2, 64, 96))
    labels[:, :9] = 255
    _, losses = ours(features, labels)
    _, expected = theirs(features, labels)
    assert set(losses) == set(expected)
    torch.testing.assert_close(losses["loss_sem_seg"], expected["loss_sem_seg"], **PARITY)
    scores, expected = ours.eval()(features)[0], theirs.eval()(features)[0]
    torch.testing.assert_close(scores, expected, **PARITY)
