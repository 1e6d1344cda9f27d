"""RetinaNet: properties of its losses and detections, on any backbone, and refusals of what cannot work."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.d2.structures import Boxes, Instances
from densekit.d2.utils.events import EventStorage
from densekit.modeling.anchor_coverage import anchors_of
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[2] / "configs"
NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "4",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.RETINANET.NUM_CLASSES": "3",
    "MODEL.RETINANET.SCORE_THRESH_TEST": "0.0",
}


def detector(name="COCO-Detection/retinanet_R_50_FPN_1x.yaml", *opts):
    cfg = load_config(str(ROOT / name), [*itertools.chain(*NARROW.items()), *map(str, opts)])
    torch.manual_seed(0)
    return build_model(cfg)


def item(boxes=((10, 12, 60, 70),), classes=(1,), size=(96, 128)):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    truth = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))
    return {"image": torch.randint(0, 256, (3, *size)).float(), "instances": truth}


def losses_of(model, batch):
    with EventStorage():
        return model.train()(batch)


def test_the_first_loss_is_that_of_the_prior():
    """All scores start at pi, so the focal loss of a negative is (1 - alpha) pi^2 -log(1 - pi)."""
    model = detector()
    torch.nn.init.zeros_(model.head.cls_score.weight)
    losses = losses_of(model, [item(boxes=(), classes=())])
    anchors = sum(len(level) for level in model.anchor_generator(features_of(model, (96, 128))))
    expected = anchors * 3 * 0.75 * 0.01**2 * -math.log(0.99)
    normaliser = 0.9 * 100 + 0.1
    torch.testing.assert_close(losses["loss_cls"].item(), expected / normaliser, rtol=1e-4, atol=0)
    assert losses["loss_box_reg"] == 0


def features_of(model, size):
    maps = model.backbone(torch.zeros(1, 3, *size))
    return [maps[name] for name in model.head_in_features]


def test_ignored_anchors_take_no_part():
    model, batch = detector(), [item()]
    anchors = model.anchor_generator(features_of(model, (96, 128)))
    labels, boxes = model.label_anchors(anchors, [batch[0]["instances"]])
    assert set(labels[0].tolist()) == {-1, 1, 3}
    logits = [torch.zeros(1, len(level), 3) for level in anchors]
    deltas = [torch.zeros(1, len(level), 4) for level in anchors]
    results = []
    for value in (0.0, 7.0):
        changed = torch.cat(logits, dim=1)
        changed[:, labels[0] == -1] = value
        with EventStorage():
            split = list(changed.split([len(level) for level in anchors], dim=1))
            loss = model.losses(anchors, split, labels, deltas, boxes)["loss_cls"]
            results.append(float(loss) * float(model.loss_normalizer))  # which moves with each call
    assert results[0] == pytest.approx(results[1]) and results[0] > 0


def test_gradients_reach_every_parameter_that_learns():
    model = detector()
    sum(losses_of(model, [item(), item(boxes=(), classes=())]).values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_a_batch_gives_what_single_images_give():
    model = detector().eval()
    batch = [item(), item()]
    for one, pair in zip(batch, model(batch)):
        single, double = model([one])[0]["instances"], pair["instances"]
        assert len(single) == len(double) > 5
        torch.testing.assert_close(single.scores, double.scores, **close(torch.float32))


@pytest.mark.parametrize("top", ["p6p7", "p6p7_on_output"])
def test_the_pyramid_on_any_backbone_is_the_published_one(top):
    """The same layers under the same names; from res5 the same numbers, from p5 other ones of the right shape."""
    published = detector().eval()
    general = detector(
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        "MODEL.BACKBONE.NAME",
        "build_fpn_backbone",
        "MODEL.FPN.TOP_LEVEL",
        top,
    ).eval()
    if top == "p6p7":
        general.load_state_dict(published.state_dict())
    x = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    ours, theirs = general.double().backbone(x), published.double().backbone(x)
    assert list(ours) == ["p3", "p4", "p5", "p6", "p7"]
    assert general.backbone.output_shape() == published.backbone.output_shape()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape
        if top == "p6p7":
            torch.testing.assert_close(ours[name], expected, **close(torch.float64))
    if top == "p6p7_on_output":
        start = general.backbone.top_block.p6(ours["p5"])
        torch.testing.assert_close(ours["p6"], start, **close(torch.float64))


def test_anchors_are_known_to_the_report():
    anchors = anchors_of(detector())
    assert len(anchors.cells) == 5 and anchors.strides == [8, 16, 32, 64, 128] and anchors.threshold == 0.4


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [300, 512]]), "same number|different number"),
        (("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "l3"), "l3"),
    ],
)
def test_what_cannot_work_is_refused(opts, message):
    with pytest.raises((ValueError, AssertionError), match=message):
        losses_of(detector("COCO-Detection/retinanet_R_50_FPN_1x.yaml", *opts), [item()])
