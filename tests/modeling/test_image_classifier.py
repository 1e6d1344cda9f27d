"""The classifier of whole images: its loss against a slow reference, mixing, and weights that detectors take."""

import math

import pytest
import torch
from torch import nn

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.modeling.image_classifier import ImageClassifier, MeanOfMap
from densekit.weights.names import adapt_names
from tests.contract.shrinking import ROOT, shrunken


class Backbone(nn.Module):
    """One convolution of stride 2."""

    size_divisibility = 0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2)

    def forward(self, x):
        return {"map": self.conv(x)}


def classifier(**options) -> ImageClassifier:
    model = ImageClassifier(
        backbone=Backbone(),
        neck=MeanOfMap(in_feature="map", channels=5),
        num_classes=4,
        pixel_mean=[1.0, 2.0, 3.0],
        pixel_std=[2.0, 4.0, 8.0],
        **options,
    )
    nn.init.normal_(model.classifier.weight)
    return model.double()


def batch(count=3):
    random = torch.Generator().manual_seed(5)
    return [
        {"image": 255 * torch.rand(3, 9, 11, generator=random).double(), "category_id": k % 4} for k in range(count)
    ]


def slow_loss(model, images, targets) -> float:
    """The cross-entropy with targets (N, K), number by number."""
    total = 0.0
    for image, target in zip(images, targets):
        features = model.backbone.conv(image[None])[0].mean(dim=(1, 2))
        scores = [
            float((row @ features + bias).detach()) for row, bias in zip(model.classifier.weight, model.classifier.bias)
        ]
        whole = math.log(sum(math.exp(score) for score in scores))
        total += sum(float(share) * (whole - score) for share, score in zip(target, scores))
    return total / len(images)


def normalised(item):
    return (item["image"] - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)) / torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_cross_entropy_with_smoothed_targets(smoothing):
    model, items = classifier(label_smoothing=smoothing), batch()
    targets = torch.eye(4)[[item["category_id"] for item in items]] * (1 - smoothing) + smoothing / 4
    expected = slow_loss(model, [normalised(item) for item in items], targets)
    assert float(model(items)["loss_cls"]) == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_mixed_images_is_that_with_mixed_targets():
    model, items = classifier(mixup=0.7, label_smoothing=0.1), batch(5)
    images = torch.stack([normalised(item) for item in items])
    one_hot = torch.eye(4)[[item["category_id"] for item in items]]
    for seed in range(3):  # the share is the first number that is drawn, and partners are neighbours in the batch
        torch.manual_seed(seed)
        share = float(torch.distributions.Beta(0.7, 0.7).sample(()))
        mixed = share * images + (1 - share) * images.roll(1, 0)
        targets = (share * one_hot + (1 - share) * one_hot.roll(1, 0)) * 0.9 + 0.1 / 4
        torch.manual_seed(seed)
        assert float(model(items)["loss_cls"]) == pytest.approx(slow_loss(model, mixed, targets), rel=1e-6)


def test_evaluation_mixes_nothing_and_gives_shares():
    model, items = classifier(mixup=0.7).eval(), batch()
    first, second = model(items), model(items)
    for one, other in zip(first, second):
        assert torch.equal(one["class_scores"], other["class_scores"])
        assert float(one["class_scores"].sum()) == pytest.approx(1.0, abs=1e-6)


def test_wrong_keys_are_named():
    for options in ({"label_smoothing": 1.0}, {"mixup": -1.0}):
        with pytest.raises(ValueError, match=r"MODEL\.CLASSIFIER"):
            classifier(**options)


PAIRS = {  # a classifier and a detector with the same backbone, below a pyramid and without
    "pyramid": ("quickstart/classifier_R_18_photos.yaml", "quickstart/faster_rcnn_R_18_FPN_bccd.yaml", "bottom_up."),
    "swin": ("swin/classifier_swin_T_imagenet.yaml", "swin/retinanet_swin_T_FPN_1x.yaml", "bottom_up."),
    "mpvit": ("mpvit/classifier_mpvit_T_imagenet.yaml", "mpvit/mask_rcnn_mpvit_T_FPN_1x.yaml", "bottom_up."),
    "hrnet": ("hrnet/classifier_w18_imagenet.yaml", "hrnet/faster_rcnn_w18_1x.yaml", "bottom_up."),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_detector_takes_the_backbone(pair):
    source, target, nested = PAIRS[pair]
    weights = build_model(shrunken(ROOT / "configs" / source)).state_dict()
    detector = build_model(shrunken(ROOT / "configs" / target)).state_dict()
    found = adapt_names({"model": weights}, detector)
    assert found.keys() <= detector.keys()
    for name, value in weights.items():
        if name.startswith("backbone.") and (ours := name.replace("backbone.", f"backbone.{nested}")) in detector:
            assert torch.equal(found[ours], value), name
    without = {name for name in detector if name.startswith(f"backbone.{nested}")} - found.keys()
    # Norms of outputs that a classifier does not have.
    assert all(name.split(".")[2].startswith("norm") or "stages" in name for name in without), without


def test_another_classifier_takes_all():
    weights = build_model(shrunken(ROOT / "configs/hrnet/classifier_w18_imagenet.yaml")).state_dict()
    found = adapt_names({"model": weights}, weights)
    assert found.keys() == weights.keys()


def test_the_neck_is_the_backbones_own():
    cfg = load_config(str(ROOT / "configs/quickstart/classifier_R_18_photos.yaml"), [])
    cfg.MODEL.CLASSIFIER.NECK = "build_hrnet_classification_neck"
    with pytest.raises(ValueError, match="build_hrnet_backbone"):
        build_model(cfg)
