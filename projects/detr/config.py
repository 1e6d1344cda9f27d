"""Configuration of DETR: ``MODEL.DETR`` with the keys of the authors' Detectron2 wrapper and a few of ours."""

import logging

from densekit.d2.config import CfgNode


def adapt_config(cfg: CfgNode) -> None:
    """Makes a YAML of the authors' wrapper mean here what it means there: its model, optimizer and mapper."""
    if cfg.MODEL.META_ARCHITECTURE == "Detr":
        cfg.MODEL.META_ARCHITECTURE = "DetrDetector"
        logging.getLogger(__name__).info("Detr of the authors' Detectron2 wrapper is densekit's DetrDetector")
    if cfg.MODEL.META_ARCHITECTURE == "DetrDetector":
        if cfg.SOLVER.OPTIMIZER == "ADAMW":
            cfg.SOLVER.OPTIMIZER = "AdamW"  # as densekit writes it
        if not cfg.INPUT.MAPPER:
            cfg.INPUT.MAPPER = "DetrDatasetMapper"  # the wrapper's launcher takes its own for this architecture
        if cfg.MODEL.RESNETS.RES5_DILATION == 2 and cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
            cfg.MODEL.BACKBONE.NAME = (
                "build_dilated_resnet_backbone"  # torchvision's, which its weights were trained with
            )
            cfg.MODEL.RESNETS.DEEP_STEM = False


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.DETR`` to ``cfg``."""
    cfg.MODEL.DETR = CfgNode()
    cfg.MODEL.DETR.NUM_CLASSES = 80  # C; the class scores have one more row, "no object"
    cfg.MODEL.DETR.FROZEN_WEIGHTS = ""  # with MASK_ON: a trained detector, which is frozen while the mask head learns
    cfg.MODEL.DETR.GIOU_WEIGHT = 2.0  # lambda_iou, in the loss and in the matching
    cfg.MODEL.DETR.L1_WEIGHT = 5.0  # lambda_L1, in the loss and in the matching
    cfg.MODEL.DETR.DEEP_SUPERVISION = True  # a loss for every decoder layer and not only for the last
    cfg.MODEL.DETR.NO_OBJECT_WEIGHT = 0.1  # weight of "no object" in the classification loss
    cfg.MODEL.DETR.NHEADS = 8  # M, heads of every attention
    cfg.MODEL.DETR.DROPOUT = 0.1  # everywhere in the transformer
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 2048  # width between the linear layers of a transformer layer
    cfg.MODEL.DETR.ENC_LAYERS = 6  # layers of the encoder; 0: none
    cfg.MODEL.DETR.DEC_LAYERS = 6  # layers of the decoder
    cfg.MODEL.DETR.PRE_NORM = False  # normalise the input of each part instead of its sum with the input
    cfg.MODEL.DETR.HIDDEN_DIM = 256  # d, width of the transformer
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 100  # N, the largest number of objects in an image

    # What the authors' wrapper does not have.
    cfg.MODEL.DETR.POSITION_EMBEDDING = "sine"  # or "learned", for at most 50 x 50 cells
    # Which cells are padding: "ceil" spares every cell that an image touches, as the wrapper does; "nearest" asks the
    # pixel at the cell's corner, as the original code does.
    cfg.MODEL.DETR.PADDING_MASK = "ceil"  # or "nearest"
    # Every encoded cell predicts too, and the queries start from the best of these predictions instead of from nothing
    # (Efficient DETR, arXiv 2104.01318): not DETR as published, but it learns in a small part of the time.
    cfg.MODEL.DETR.QUERY_SELECTION = False  # see above
    cfg.MODEL.DETR.ACTIVATION_CHECKPOINT = False  # compute the transformer's layers anew in the backward pass
    # With MASK_ON: also one label per pixel. Which classes are things is in the metadata of the training data set.
    cfg.MODEL.DETR.PANOPTIC_ON = False  # without it all classes are things
    cfg.MODEL.DETR.PANOPTIC_SCORE_THRESH = 0.85  # least score of a segment of the panoptic output


def shrink(cfg: CfgNode) -> None:
    """Takes few, narrow layers and few queries, so that a step takes well under a second."""
    cfg.MODEL.DETR.HIDDEN_DIM = 128
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 16
    cfg.MODEL.DETR.ENC_LAYERS = 1
    cfg.MODEL.DETR.DEC_LAYERS = 2
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 6
