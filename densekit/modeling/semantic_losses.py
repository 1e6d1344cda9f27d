"""``MODEL.SEM_SEG_HEAD.LOSS``: what a semantic head learns by."""

from densekit.d2.config import CfgNode
from densekit.layers.pixel_losses import TERMS, PixelLoss

BY_FREQUENCY = "frequency"


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.SEM_SEG_HEAD.LOSS``, and how scores are enlarged to the labels."""
    # Bilinear enlarging between the centers of the corner pixels, in heads whose checkpoints are of both kinds
    # (HRNetV2Head, OCRHead), and in the backbone below them. The wrong one costs about 5 mIoU.
    cfg.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS = False
    node = cfg.MODEL.SEM_SEG_HEAD.LOSS = CfgNode()
    # Summed up: "cross_entropy", "ohem" (of the hard pixels alone), "lovasz" (arXiv 1705.08790), "dice" (1606.04797).
    node.NAMES = ["cross_entropy"]
    node.WEIGHTS = [1.0]  # of each of them; SEM_SEG_HEAD.LOSS_WEIGHT is a factor of all
    # One factor for each class; ["frequency"] takes them from the label maps of the training data, rare classes
    # counting more; [] for equal ones.
    node.CLASS_WEIGHTS = []
    # Of "ohem": hard are pixels whose true class has a probability below this ...
    node.OHEM_THRESHOLD = 0.9
    node.OHEM_MIN_KEPT = 131072  # ... or more of the least probable ones, up to so many in the batch of a process


def criterion_from_config(cfg: CfgNode) -> PixelLoss:
    """The loss of a head.

    Raises:
        ValueError: The keys contradict each other.
    """
    head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.LOSS
    if not node.NAMES or set(node.NAMES) - set(TERMS) or len(node.NAMES) != len(node.WEIGHTS):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.LOSS.NAMES is {list(node.NAMES)} and WEIGHTS is {list(node.WEIGHTS)}: give one weight "
            f"for each name, and names among {', '.join(TERMS)}."
        )
    return PixelLoss(
        ignore_value=head.IGNORE_VALUE,
        terms=dict(zip(node.NAMES, node.WEIGHTS)),
        class_weights=_class_weights(cfg),
        ohem_threshold=node.OHEM_THRESHOLD,
        ohem_min_kept=node.OHEM_MIN_KEPT,
    )


def auxiliary_criterion(cfg: CfgNode) -> PixelLoss:
    """The loss of an auxiliary head: plain cross-entropy, with the class weights of the head that it helps."""
    return PixelLoss(
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        terms={"cross_entropy": 1.0},
        class_weights=_class_weights(cfg),
    )


def _class_weights(cfg: CfgNode) -> list[float]:
    weights, classes = list(cfg.MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if not weights or weights == [BY_FREQUENCY]:  # a run has put numbers in its place before it builds the model
        return []
    if len(weights) != classes or not all(isinstance(weight, (int, float)) and weight >= 0 for weight in weights):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS is {weights}; give {classes} numbers of at least 0, as many as "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES, or ['{BY_FREQUENCY}'], or []."
        )
    return [float(weight) for weight in weights]
