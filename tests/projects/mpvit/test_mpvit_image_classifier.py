"""The backbone below the classifier of whole images is the authors' classifier."""

import torch

from densekit.d2.modeling import build_model
from densekit.projects.mpvit.network import MPViTClassifier
from tests.contract.shrinking import ROOT, shrunken


def test_scores_are_those_of_the_authors_classifier():
    model = build_model(shrunken(ROOT / "configs/mpvit/classifier_mpvit_T_imagenet.yaml")).eval()
    theirs = MPViTClassifier(model.backbone.network, model.classifier.out_features).eval()
    theirs.classifier.load_state_dict(model.classifier.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model.logits(images), theirs(images))
