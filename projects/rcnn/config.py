"""Configuration of the R-CNN line. Sampling, RoIPool, thresholds and losses are keys of the host."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.FAST_RCNN`` and ``MODEL.RCNN`` to ``cfg``."""
    cfg.MODEL.FAST_RCNN = CfgNode()
    # With MODEL.ROI_BOX_HEAD.NAME TruncatedFCHead: t of section 3.1, how many singular values each linear layer keeps
    # in inference, the first layer first; 0 leaves a layer as it is. The paper has [1024, 256] for VGG16.
    cfg.MODEL.FAST_RCNN.SVD_RANKS = []  # none: the layers as they were trained
    node = cfg.MODEL.RCNN = CfgNode()  # with MODEL.META_ARCHITECTURE RCNN
    node.CROP_SIZE = 227  # side of a warped region in pixels, by the network; below 64 most backbones' maps are lost
    node.CONTEXT = 16  # pixels around the box in it, on each side
    node.GRID = 2  # with MODEL.CLASSIFIER.NECK build_grid_of_map: cells along each side; 1 forgets where an object ends
    node.STORE_GIB = 20.0  # room for features in OUTPUT_DIR; what does not fit is computed again for each pass
    node.RIDGE_PENALTY = 1000.0  # lambda of the box corrections, more the less data there is
    node.SVM = CfgNode()  # for features whose mean length is 20
    node.SVM.C = 0.001  # weight of the losses; the larger, the closer to the training data
    node.SVM.POSITIVE_WEIGHT = 2.0  # what an object's loss counts; 1 to the inverse of its share
    node.SVM.BIAS_MULTIPLIER = 10.0  # the larger, the freer the bias
    node.SVM.REFIT_AFTER = 2000  # new hard negatives of a class after which its SVM is fitted again
    node.SEARCH = CfgNode()  # for pictures that come without proposals; as the options of `densekit proposals`
    node.SEARCH.METHOD = "selective-search"  # or "edge-boxes"
    node.SEARCH.WIDTH = 500  # wider pictures are searched at this width
    node.SEARCH.LEAST = 20  # least side of a box, in pixels


def shrink(cfg: CfgNode) -> None:
    """Lets narrow layers keep few singular values, and makes crops small."""
    cfg.MODEL.RCNN.CROP_SIZE, cfg.MODEL.RCNN.CONTEXT = 64, 4
    cfg.MODEL.FAST_RCNN.SVD_RANKS = [min(rank, 4) for rank in cfg.MODEL.FAST_RCNN.SVD_RANKS]
