"""Configuration of PointRend: keys and defaults of Detectron2's project, whose INPUT keys all systems share."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.POINT_HEAD``, ``MODEL.IMPLICIT_POINTREND`` and keys of the mask head to ``cfg``."""
    cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES = ("p2",)  # maps of the coarse mask head
    cfg.MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION = 7  # side of the coarse mask
    cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = False  # refine the coarse mask at points

    cfg.MODEL.POINT_HEAD = CfgNode()
    cfg.MODEL.POINT_HEAD.NAME = "StandardPointHead"  # or "ImplicitPointHead"
    # The mask head whose masks are refined, on regions of ROI_MASK_HEAD.POOLER_RESOLUTION pooled as the box head's are;
    # "" is the light head of the paper, on a grid of points.
    cfg.MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME = ""  # e.g. "MaskRCNNConvUpsampleHead"
    cfg.MODEL.POINT_HEAD.NUM_CLASSES = 80  # as MODEL.ROI_HEADS or MODEL.SEM_SEG_HEAD have it
    cfg.MODEL.POINT_HEAD.IN_FEATURES = ("p2",)  # maps that points see, the fine-grained features
    cfg.MODEL.POINT_HEAD.TRAIN_NUM_POINTS = 14 * 14  # N, points of a region or an image in training
    cfg.MODEL.POINT_HEAD.OVERSAMPLE_RATIO = 3  # k, points drawn for each of these
    cfg.MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO = 0.75  # beta, the share chosen for uncertainty
    cfg.MODEL.POINT_HEAD.SUBDIVISION_STEPS = 5  # doublings of the coarse mask in inference
    cfg.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS = 28 * 28  # N, points predicted anew in each
    cfg.MODEL.POINT_HEAD.FC_DIM = 256  # width of the point head
    cfg.MODEL.POINT_HEAD.NUM_FC = 3  # its hidden layers
    cfg.MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK = False  # one mask for all classes
    cfg.MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER = True  # the coarse prediction enters every layer, not the first only
    cfg.MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME = "SemSegFPNHead"  # the head whose scores are refined

    cfg.MODEL.IMPLICIT_POINTREND = CfgNode()
    cfg.MODEL.IMPLICIT_POINTREND.IMAGE_FEATURE_ENABLED = True  # points see the maps
    cfg.MODEL.IMPLICIT_POINTREND.POS_ENC_ENABLED = True  # points see where in the box they are
    cfg.MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER = 0.00001  # factor of the predicted parameters' mean square


def shrink(cfg: CfgNode) -> None:
    """Narrows the heads and takes few points, so that a step takes well under a second."""
    cfg.MODEL.POINT_HEAD.FC_DIM = 16
    cfg.MODEL.POINT_HEAD.TRAIN_NUM_POINTS = 25
