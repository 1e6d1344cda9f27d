"""The backbone below the classifier of whole images is the authors' classifier."""

import torch

from densekit.d2.modeling import build_model
from densekit.modeling.image_classifier import MeanOfMap
from densekit.projects.mpvit.backbone import MPViTBackbone
from densekit.projects.mpvit.network import MPViT, MPViTClassifier, Size
from tests.classifier_heads import assert_filled, classifier_of
from tests.contract.shrinking import ROOT, shrunken
from tests.tolerances import PARITY


def test_scores_are_those_of_the_authors_classifier():
    model = build_model(shrunken(ROOT / "configs/mpvit/classifier_mpvit_T_imagenet.yaml")).eval()
    theirs = MPViTClassifier(model.backbone.network, model.classifier.out_features).eval()
    theirs.classifier.load_state_dict(model.classifier.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model.logits(images), theirs(images))


def test_the_recorded_classifier_of_the_authors(reference_dir, tmp_path):
    case = torch.load(reference_dir / "mpvit.pt")["cls"]
    keys = ("num_path", "num_layers", "embed_dims", "mlp_ratios", "num_heads")
    network = MPViT(Size(*(tuple(case["cfg"][key]) for key in keys)))
    backbone = MPViTBackbone(network=network, out_features=["stage5"])
    weights = {
        name: value.float() if value.is_floating_point() else value for name, value in case["state_dict"].items()
    }
    neck = MeanOfMap(in_feature="stage5", channels=weights["cls_head.cls.weight"].shape[1])
    model = classifier_of(backbone, neck, case["num_classes"]).eval()
    assert_filled(model, weights, tmp_path / "theirs.pth")
    with torch.no_grad():
        torch.testing.assert_close(model.logits(case["x"]), case["out_eval"], **PARITY)
