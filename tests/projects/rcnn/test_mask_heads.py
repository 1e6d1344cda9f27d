"""Mask heads of Mask R-CNN's ablations: the softmax loss by definition, what they learn, what the recipes change."""

import math

import numpy as np
import pytest
import torch

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_mask_head
from densekit.d2.structures import Boxes, Instances, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.projects.rcnn.mask_heads import softmax_mask_loss
from tests.contract.shrinking import ROOT
from tests.tolerances import close

FPN = "quickstart/mask_rcnn_R_18_FPN_streets.yaml"
KEYS = "MODEL.ROI_MASK_HEAD"


def config(name, *options):
    return load_config(str(ROOT / "configs" / name), list(options))


def head(name, *options, channels=4, side=7):
    torch.manual_seed(0)
    narrow = [f"{KEYS}.CONV_DIM", 32, f"{KEYS}.NORM", "", f"{KEYS}.FC_DIM", 48, f"{KEYS}.POOLER_RESOLUTION", side]
    cfg = config(FPN, f"{KEYS}.NAME", name, "MODEL.ROI_HEADS.NUM_CLASSES", 3, *narrow, *options)
    return build_mask_head(cfg, ShapeSpec(channels=channels, height=side, width=side))


def loss_by_definition(logits, classes, inside):
    losses = []
    for region, category in enumerate(classes.tolist()):
        channel = 0 if logits.shape[1] == 2 else category
        for y in range(inside.shape[1]):
            for x in range(inside.shape[2]):
                values = logits[region, :, y, x].tolist()
                wanted = values[channel] if inside[region, y, x] else values[-1]
                losses.append(math.log(sum(math.exp(value) for value in values)) - wanted)
    return sum(losses) / len(losses)


class TestSoftmaxLoss:
    @pytest.mark.parametrize("channels", [5, 2])  # one per class, and class-agnostic
    def test_definition(self, channels):
        logits, inside = torch.randn(3, channels, 4, 4, dtype=torch.float64), torch.rand(3, 4, 4) > 0.5
        classes = torch.tensor([3, 0, 2])
        found = softmax_mask_loss(logits, classes, inside)
        torch.testing.assert_close(found.item(), loss_by_definition(logits, classes, inside), **close(torch.float64))

    def test_gradient(self):
        logits = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
        classes, inside = torch.tensor([2, 0]), torch.rand(2, 3, 3) > 0.5
        assert torch.autograd.gradcheck(lambda x: softmax_mask_loss(x, classes, inside), logits)

    def test_a_pixel_of_another_class_costs(self):
        """Other classes lose by a higher logit, which a sigmoid mask of the region's class does not notice."""
        logits, inside = torch.zeros(1, 4, 2, 2, requires_grad=True), torch.ones(1, 2, 2, dtype=torch.bool)
        softmax_mask_loss(logits, torch.tensor([1]), inside).backward()
        assert (logits.grad[0, 1] < 0).all() and (logits.grad[0, [0, 2, 3]] > 0).all()

    def test_no_regions(self):
        logits = torch.randn(0, 4, 2, 2, requires_grad=True)
        loss = softmax_mask_loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2, dtype=torch.bool))
        loss.backward()
        assert loss == 0 and logits.grad is not None


def quarters(count):
    """Proposals of whose object one quarter is filled, by the class: 0 to 2, from the upper left one on."""
    box = [8.0, 4.0, 24.0, 36.0]
    corners = [(8.0, 4.0), (16.0, 4.0), (8.0, 20.0)]
    found = Instances((40, 40))
    found.gt_classes = torch.arange(count) % 3
    found.proposal_boxes = Boxes(torch.tensor([box]).repeat(count, 1))
    filled = [corners[k] for k in found.gt_classes.tolist()]
    found.gt_masks = PolygonMasks([[np.array([x, y, x + 8, y, x + 8, y + 16, x, y + 16])] for x, y in filled])
    return found


@pytest.mark.parametrize("agnostic", [False, True], ids=["per class", "class-agnostic"])
@pytest.mark.parametrize("name", ["SoftmaxMaskHead", "MLPMaskHead"])
def test_heads_learn_shapes(name, agnostic):
    model = head(name, f"{KEYS}.CLS_AGNOSTIC_MASK", agnostic, side=8).train()
    truth = quarters(6)
    regions = torch.randn(6, 4, 8, 8) * 0.1
    regions[torch.arange(6), truth.gt_classes] += truth.gt_masks.crop_and_resize(truth.proposal_boxes.tensor, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with EventStorage():
        for _ in range(100):
            loss = model(regions, [truth])["loss_mask"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seen = Instances((40, 40), pred_boxes=truth.proposal_boxes, pred_classes=truth.gt_classes)
    with torch.no_grad():
        model.eval()(regions, [seen])
    side = seen.pred_masks.shape[-1]
    wanted = truth.gt_masks.crop_and_resize(truth.proposal_boxes.tensor, side)
    found = seen.pred_masks[:, 0] > 0.5
    assert side == 16 and ((found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2))).min() > 0.9


def test_softmax_masks_are_the_share_of_the_class():
    model = head("SoftmaxMaskHead").eval()
    with torch.no_grad():
        model.predictor.weight.mul_(1000)  # else all classes are alike
        x, classes = torch.randn(5, 4, 7, 7), torch.tensor([0, 2, 1, 1, 0])
        seen = [Instances((9, 9), pred_classes=part) for part in classes.split([2, 0, 3])]
        model(x, seen)
        logits = model.layers(x).double()
    masks = torch.cat([one.pred_masks for one in seen])
    shares = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = torch.stack([shares[row, k] for row, k in enumerate(classes.tolist())])[:, None]
    torch.testing.assert_close(masks.double(), expected, **close(torch.float32))
    assert [len(one.pred_masks) for one in seen] == [2, 0, 3]


@pytest.mark.parametrize("name", ["SoftmaxMaskHead", "MLPMaskHead"])
def test_no_proposals_give_no_loss_and_a_gradient(name):
    model = head(name).train()
    with EventStorage():
        loss = model(torch.zeros(0, 4, 7, 7), [quarters(0)])["loss_mask"]
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in model.parameters())


def test_linear_layers_need_a_known_size():
    with pytest.raises(ValueError, match="POOLER_TYPE"):
        build_mask_head(config(FPN, f"{KEYS}.NAME", "MLPMaskHead"), {"p2": ShapeSpec(channels=4)})
    with pytest.raises(ValueError, match="Res5ROIHeads makes"):
        head("MLPMaskHead").layers(torch.zeros(2, 4, 4, 4))


def changes(ours, theirs, path=""):
    """The keys in which two configurations differ, and the values of the first."""
    found = {}
    for key, value in ours.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            found |= changes(value, theirs[key], f"{name}.")
        elif value != theirs[key]:
            found[name] = value
    return found


@pytest.mark.parametrize(
    "name, base, expected",
    [
        ("mask_rcnn_R_34_C4", "mask_rcnn_R_18_C4", {"MODEL.RESNETS.DEPTH": 34}),
        ("mask_rcnn_R_18_C4_softmax", "mask_rcnn_R_18_C4", {f"{KEYS}.NAME": "SoftmaxMaskHead"}),
        ("mask_rcnn_R_18_C4_cls_agnostic", "mask_rcnn_R_18_C4", {f"{KEYS}.CLS_AGNOSTIC_MASK": True}),
        ("mask_rcnn_R_18_C4_roipool", "mask_rcnn_R_18_C4", {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool"}),
        ("mask_rcnn_R_18_C4_roiwarp", "mask_rcnn_R_18_C4", {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIWarp"}),
        (
            "mask_rcnn_R_18_C5_roipool",
            "mask_rcnn_R_18_C5",
            {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool", f"{KEYS}.POOLER_TYPE": "ROIPool"},
        ),
        (
            "mask_rcnn_R_18_C5_roiwarp",
            "mask_rcnn_R_18_C5",
            {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIWarp", f"{KEYS}.POOLER_TYPE": "ROIWarp"},
        ),
        ("mask_rcnn_R_34_FPN", "../" + FPN.removesuffix("_streets.yaml"), {"MODEL.RESNETS.DEPTH": 34}),
        (
            "mask_rcnn_R_18_FPN_mlp",
            "../" + FPN.removesuffix("_streets.yaml"),
            {f"{KEYS}.NAME": "MLPMaskHead", f"{KEYS}.FC_DIM": 256},
        ),
        ("mask_rcnn_R_18_FPN_person", "faster_rcnn_R_18_FPN_person", {"MODEL.MASK_ON": True}),
        (
            "keypoint_mask_rcnn_R_18_FPN_person",
            "../quickstart/keypoint_rcnn_R_18_FPN",
            {"MODEL.MASK_ON": True},
        ),
    ],
)
def test_recipes_change_one_thing(name, base, expected):
    found = changes(config(f"rcnn/{name}_streets.yaml"), config(f"rcnn/{base}_streets.yaml"))
    del found["OUTPUT_DIR"]
    assert found == expected
