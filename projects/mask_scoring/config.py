"""Configuration of Mask Scoring R-CNN. It is switched on by ``MODEL.ROI_HEADS.NAME``."""

from densekit.d2.config import CfgNode


def adapt_config(cfg: CfgNode) -> None:
    """With the upper bound, takes the model and the mapper that compare with the ground truth.

    Raises:
        ValueError: the host's PanopticFPN or its test-time augmentation, which do not do so.
    """
    if cfg.MODEL.MASK_SCORING.UPPER_BOUND and cfg.MODEL.ROI_HEADS.NAME.startswith("MaskScoring"):
        if cfg.TEST.AUG.ENABLED:
            raise ValueError(
                "MODEL.MASK_SCORING.UPPER_BOUND needs the ground truth in its evaluation, which test-time augmentation "
                "does not hand on: set TEST.AUG.ENABLED False."
            )
        if cfg.MODEL.META_ARCHITECTURE == "PanopticFPN":
            raise ValueError(
                "MODEL.MASK_SCORING.UPPER_BOUND needs the ground truth in its evaluation, which PanopticFPN does not "
                "read: evaluate its weights with MODEL.META_ARCHITECTURE GeneralizedRCNN."
            )
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
            cfg.MODEL.META_ARCHITECTURE = "TruthfulRCNN"
        cfg.INPUT.MAPPER = cfg.INPUT.MAPPER or "TruthfulMapper"


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.MASK_SCORING`` to ``cfg``."""
    cfg.MODEL.MASK_SCORING = CfgNode()
    # What the MaskIoU head sees beside the region's features (Figure 3 of the paper): "selected", the mask of the
    # class (a); "product", the features times that mask (b); "all", the masks of all classes (c); "high_res", the mask
    # and the features at twice the resolution (d).
    cfg.MODEL.MASK_SCORING.INPUT = "selected"  # one of the four above
    # Which classes' MaskIoU is learned (Table 4): "selected", the region's; "present", those with an object in the
    # region; "all", all classes, 0 for those without an object there.
    cfg.MODEL.MASK_SCORING.TARGET = "selected"  # one of the three above
    cfg.MODEL.MASK_SCORING.NUM_CONV = 4  # 3x3 convolutions; the last has stride 2
    cfg.MODEL.MASK_SCORING.CONV_DIM = 256  # their channels
    cfg.MODEL.MASK_SCORING.FC_DIM = 1024  # width of the two fully connected layers
    cfg.MODEL.MASK_SCORING.LOSS_WEIGHT = 1.0  # factor of the l2 loss
    # In an evaluation, score each mask by its true overlap with the ground truth: the paper's upper bound, what a
    # perfect head would reach.
    cfg.MODEL.MASK_SCORING.UPPER_BOUND = False  # True: the head is not asked


def shrink(cfg: CfgNode) -> None:
    """Narrows the head that scores masks, so that a step takes well under a second."""
    cfg.MODEL.MASK_SCORING.CONV_DIM = 8
    cfg.MODEL.MASK_SCORING.FC_DIM = 16
