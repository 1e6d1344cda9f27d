"""Published classifiers in image classifiers, neck and linear layer included."""

import pytest
import torch

from densekit.d2.modeling import build_model
from densekit.projects.hrnet.backbone import NAMES, HRNetBackbone, norm_maker
from densekit.projects.hrnet.classification import ClassificationNeck
from densekit.projects.hrnet.neck import HRNetNeck
from densekit.weights import adapt_names
from tests.classifier_heads import assert_filled, assert_same_logits, classifier_of, configured
from tests.contract.shrinking import ROOT
from tests.projects.hrnet.recorded_net import network_of
from tests.tolerances import PARITY


def timms():
    timm = pytest.importorskip("timm")
    return timm.create_model("hrnet_w18_small", num_classes=5)


def small():
    """The config of timm's smallest, the authors' w18-small-v1."""
    cfg = configured("hrnet/classifier_w18_imagenet.yaml", "MODEL.CLASSIFIER.NUM_CLASSES", 5)
    cfg.merge_from_file(str(ROOT / "configs/hrnet/_base_/w18_small_v1.yaml"))
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_hrnet_backbone", "MODEL.HRNET.NORM", "BN"])
    return cfg


def test_logits_are_those_of_timm(tmp_path):
    assert_same_logits(small(), timms(), tmp_path / "theirs.pth")


def test_without_the_neck_the_backbone_is_taken_and_the_neck_is_not():
    cfg = small()
    cfg.MODEL.CLASSIFIER.NECK = "build_mean_of_map"
    model = build_model(cfg)
    names = adapt_names({"model": timms().state_dict()}, model.state_dict())
    assert not any(name.startswith("neck.") for name in names)
    assert "backbone.network.conv1.weight" in names


def test_the_recorded_classifier_of_the_authors(reference_dir, tmp_path):
    case = torch.load(reference_dir / "hrnet.pt")["cls"]
    norm, channels = norm_maker("BN", 0.1), case["cfg"]["STAGE4"]["NUM_CHANNELS"]
    network = network_of(case["cfg"], norm=norm)
    backbone = HRNetBackbone(network, out_features=list(NAMES))
    neck = ClassificationNeck(
        in_channels=channels, channels=case["head_channels"], out_channels=case["final"], norm=norm
    )
    model = classifier_of(backbone, HRNetNeck(neck, case["final"]), case["classes"]).eval()
    weights = {name: x.float() if x.is_floating_point() else x for name, x in case["state_dict"].items()}
    assert_filled(model, weights, tmp_path / "theirs.pth")
    with torch.no_grad():
        torch.testing.assert_close(model.logits(case["x"]), case["out_eval"], **PARITY)
