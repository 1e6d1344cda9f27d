"""The one way in which the weights of a model are loaded: evaluation, prediction, rehearsal, drawing."""

import logging
from typing import Any

from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model
from densekit.deploy.exported import load_exported
from densekit.engine.ema import use_average
from densekit.weights import mismatch

logger = logging.getLogger(__name__)


def load_weights(cfg: CfgNode, model: nn.Module, *, resume: bool = False) -> dict[str, Any]:
    """Fills a model from MODEL.WEIGHTS, or from the last checkpoint in OUTPUT_DIR; to be called in all processes.

    With MODEL_EMA.ENABLED the model gets the average of the weights that the file holds.

    Args:
        cfg: of the model.
        model: not wrapped.
        resume: take the last checkpoint, if there is any.

    Returns:
        What the file holds beside the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another architecture.
    """
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR if resume else "", min_coverage=cfg.MODEL.WEIGHTS_MIN_COVERAGE)
    kept = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    pixels = (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    if note := mismatch(checkpointer.pixels, *pixels, f"the weights in {checkpointer.source}"):
        logger.warning(note)
    if cfg.MODEL_EMA.ENABLED and checkpointer.source:
        found = use_average(model, kept)
        what = "The average of the weights" if found else "The weights as they are, for it has no average of them,"
        logger.info(f"MODEL_EMA.ENABLED: {what} in {checkpointer.source} is used.")
    return kept


def build_with_weights(cfg: CfgNode, *, resume: bool = False) -> nn.Module:
    """Builds the model of a configuration with its weights, in evaluation mode, or opens MODEL.EXPORTED in its place.

    Args:
        cfg: a configuration.
        resume: take the last checkpoint in OUTPUT_DIR, if there is any, before MODEL.WEIGHTS.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_weights`.
    """
    if cfg.MODEL.EXPORTED:
        exported = load_exported(cfg.MODEL.EXPORTED)
        exported.check_size(cfg.INPUT)
        return exported
    model = build_model(cfg)
    load_weights(cfg, model, resume=resume)
    return model.eval()


def has_checkpoint(cfg: CfgNode) -> bool:
    """Tells whether OUTPUT_DIR holds a checkpoint to resume from; to be called in all processes."""
    return Checkpointer(nn.Identity(), cfg.OUTPUT_DIR).has_checkpoint()
