"""Published classifiers in image classifiers, head and last norm included; a detector gets the backbone alone."""

import pytest
import torch
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from densekit.d2.modeling import build_model
from densekit.modeling.image_classifier import MeanOfMap
from densekit.projects.swin.backbone import NAMES, SwinTransformer
from densekit.weights import adapt_names
from tests.classifier_heads import assert_filled, assert_same_logits, classifier_of, configured
from tests.projects.swin.recorded import weights_of
from tests.tolerances import PARITY

SIZES = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
OTHERS = ("window_size", "patch_size", "mlp_ratio", "qkv_bias", "patch_norm")
WIDTHS = [item for key, value in SIZES.items() for item in (f"MODEL.SWIN.{key.upper()}", value)]
WIDTHS += ["MODEL.SWIN.WINDOW_SIZE", 4]
CLASSIFIER = ["MODEL.SWIN.IMAGE_SIZE", 128, "MODEL.CLASSIFIER.NUM_CLASSES", 5]


def torchvisions():
    return TorchvisionSwin(patch_size=[4, 4], window_size=[4, 4], num_classes=5, **SIZES)


def timms():
    timm = pytest.importorskip("timm")
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, window_size=4, img_size=128, **SIZES)


@pytest.mark.parametrize("make", [torchvisions, timms])
def test_logits_are_those_of_other_implementations(make, tmp_path):
    cfg = configured("swin/classifier_swin_T_imagenet.yaml", *WIDTHS, *CLASSIFIER)
    assert_same_logits(cfg, make(), tmp_path / "theirs.pth")


def test_a_detector_gets_the_backbone_alone():
    model = build_model(configured("swin/mask_rcnn_swin_T_FPN_1x.yaml", *WIDTHS))
    names = adapt_names({"model": torchvisions().state_dict()}, model.state_dict())
    assert all(name.startswith("backbone.bottom_up.") and "norm3" not in name for name in names)


def test_recorded_classifiers_of_the_authors(reference_dir, tmp_path):
    recorded, checked = torch.load(reference_dir / "swin.pt"), 0
    for case in recorded.values():
        if not isinstance(case, dict) or not {"cfg", "logits", "ce_label"} <= case.keys() or case["cfg"].get("ape"):
            continue  # the backbone keeps absolute positions as a map
        weights, size = weights_of(case), tuple(case["x"].shape[2:])
        given = {key: case["cfg"][key] for key in (*SIZES, *OTHERS) if key in case["cfg"]}
        last = NAMES[len(given["depths"]) - 1]
        backbone = SwinTransformer(image_size=size, drop_path_rate=0.0, out_features=(last,), **given)
        neck = MeanOfMap(in_feature=last, channels=weights["norm.weight"].numel())
        model = classifier_of(backbone, neck, len(weights["head.weight"])).eval()
        assert_filled(model, weights, tmp_path / "theirs.pth")
        with torch.no_grad():
            torch.testing.assert_close(model.logits(case["x"]), case["logits"], **PARITY)
        checked += 1
    assert checked
