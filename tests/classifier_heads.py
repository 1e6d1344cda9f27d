"""Image classifiers filled with the files of other implementations, for the tests of their names."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model
from densekit.modeling.image_classifier import ImageClassifier
from densekit.weights import adapt_names
from tests.contract.shrinking import ROOT, shrunken
from tests.tolerances import PARITY


def configured(name: str, *opts: Any) -> CfgNode:
    """A shrunken config with keys and values."""
    cfg = shrunken(ROOT / "configs" / name)
    cfg.merge_from_list(list(opts))
    return cfg


def scattered(model: nn.Module) -> nn.Module:
    """The model in eval mode with weights with which every layer says something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
    return model.eval()


def classifier_of(backbone: nn.Module, neck: nn.Module, num_classes: int) -> ImageClassifier:
    """A classifier of images that are normalised."""
    return ImageClassifier(
        backbone=backbone, neck=neck, num_classes=num_classes, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3
    )


def assert_filled(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Loads the weights from a file; nothing of the model stays as it was and nothing of the file is over."""
    torch.save({"model": weights}, path)
    names = adapt_names({"model": weights}, model.state_dict())
    wanted = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert {name for name in names if not name.endswith("num_batches_tracked")} == wanted
    Checkpointer(model).load(str(path))


def assert_same_logits(cfg: CfgNode, theirs: nn.Module, path: Path) -> None:
    """The classifier of a config with another implementation's weights gives its logits."""
    model: Any = build_model(cfg).eval()
    theirs = scattered(theirs)
    assert_filled(model, theirs.state_dict(), path)
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(images), theirs(images), **PARITY)
