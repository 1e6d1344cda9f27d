"""The backbone below the classifier of whole images is the authors' classifier."""

import torch

from densekit.d2.modeling import build_model
from densekit.projects.swin.classifier import SwinClassifier
from tests.contract.shrinking import ROOT, shrunken


def test_scores_are_those_of_the_authors_classifier():
    cfg = shrunken(ROOT / "configs/swin/classifier_swin_T_imagenet.yaml")
    node = cfg.MODEL.SWIN
    # Maps of 8, 4, 2 and 1 tokens: with windows of 3, those of the last two are smaller than a window.
    node.IMAGE_SIZE, node.DEPTHS, cfg.MODEL.CLASSIFIER.NUM_CLASSES = 32, [2, 2, 2, 2], 5
    model = build_model(cfg).eval()
    theirs = SwinClassifier(
        img_size=(32, 32),
        num_classes=5,
        embed_dim=node.EMBED_DIM,
        depths=node.DEPTHS,
        num_heads=node.NUM_HEADS,
        window_size=node.WINDOW_SIZE,
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = theirs.state_dict()
    ours = {name.replace("norm3.", "norm."): name for name in model.backbone.state_dict()}
    assert {name for name in weights if not name.startswith("head.")} == set(ours)
    model.backbone.load_state_dict({name: weights[other] for other, name in ours.items()})
    model.classifier.load_state_dict({"weight": weights["head.weight"], "bias": weights["head.bias"]})
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(model.logits(images), theirs(images), atol=1e-4)
