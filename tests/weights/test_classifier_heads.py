"""Files of torchvision's ResNets in image classifiers: same logits, and nothing that is not sure."""

import torchvision
from torch import nn

from densekit.d2.modeling import build_model
from densekit.weights import adapt_names
from tests.classifier_heads import assert_same_logits, configured

BASE = "_base_/models/image_classifier.yaml"
BLOCKS = ["MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.BACKBONE.NAME", "build_resnet_backbone"]
BLOCKS += ["MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 64]
BLOCKS += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
WHOLE = ["MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.BACKBONE.NAME", "TorchvisionBackbone"]
WHOLE += ["MODEL.TORCHVISION.NAME", "resnet18"]


def resnet18():
    return torchvision.models.resnet18(weights=None, num_classes=5)


def test_a_resnet_classifies_as_torchvisions(tmp_path):
    assert_same_logits(configured(BASE, *BLOCKS), resnet18(), tmp_path / "theirs.pth")


def test_a_network_under_its_own_names_does_too(tmp_path):
    assert_same_logits(configured(BASE, *WHOLE), resnet18(), tmp_path / "theirs.pth")


def test_layers_between_the_map_and_the_linear_layer_are_not_guessed():
    theirs = resnet18()
    theirs.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 5))
    names = adapt_names({"model": theirs.state_dict()}, build_model(configured(BASE, *WHOLE)).state_dict())
    assert "classifier.weight" not in names
