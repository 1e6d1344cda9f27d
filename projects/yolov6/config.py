"""Configuration of YOLOv6, switched on by ``MODEL.META_ARCHITECTURE`` ``"YOLOv6Detector"``."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.YOLOV6`` and ``INPUT.YOLOV6`` to ``cfg``."""
    _add_input(cfg)
    cfg.MODEL.YOLOV6 = node = CfgNode()
    # The network. With other backbones only the head's keys count, and NUM_CLASSES; defaults are the paper's N.
    node.DEPTH = 0.33  # factor of the units of a stage
    node.WIDTH = 0.25  # factor of the channels
    node.UNIT = "repvgg"  # "qarepvgg", "conv_relu", "conv_silu", "conv_silu_bias" (the paper's L), "scaled_sum"
    node.STAGE = "rep"  # RepBlock; "csp": CSPStackRep; "mbla": of the later releases
    node.EXPANSION = 0.5  # width inside a CSP stage, as a share of its channels
    node.POOL = "simsppf"  # "sppf", and of the later releases "simcspsppf", "cspsppf"
    node.FINER = False  # RepBi-PAN, of the later releases: each level of the neck also sees the one below
    node.BOTTOM_UP = "build_efficientrep_backbone"  # what build_reppan_backbone puts the neck on
    node.NORM = "BN"  # "SyncBN": statistics of all processes
    # The head.
    node.NUM_CLASSES = 80  # counted from the data
    node.IN_FEATURES = []  # maps of the backbone that carry a head; []: all
    node.BINS = 1  # of each distance, 17 for M and L; 1: plain distances
    node.EXTRA_BINS = 0  # of a second prediction of the distances for the distillation of N and S, in training only
    node.ANCHORS = False  # anchors that aid the training, of the later releases
    node.OBJECTNESS = False  # a prediction of it multiplies the classes (the ablation of section 2.3.3)
    # Which positions learn an object.
    node.ASSIGNER = "tal"  # "atss", "simota"
    node.TAL_TOPK = 13  # positions of an object at most
    node.TAL_ALPHA = 1.0  # power of the score
    node.TAL_BETA = 6.0  # power of the IoU
    node.WARMUP_ASSIGNER = "atss"  # of the first iterations
    node.WARMUP_ASSIGNER_ITERS = 0  # how many; the paper has 4 epochs, the later releases none
    # The losses.
    node.CLASS_LOSS = "vfl"  # "qfl", "focal", "poly"
    node.BOX_LOSS = "siou"  # "giou", "diou", "ciou", "iou"
    node.CLASS_WEIGHT = 1.0  # of CLASS_LOSS
    node.BOX_WEIGHT = 2.5  # of BOX_LOSS
    node.BIN_WEIGHT = 0.5  # of the distribution focal loss
    node.OBJECT_WEIGHT = 1.0  # of the loss of OBJECTNESS
    node.LEAST_SCORE_SUM = 1.0  # sums of target scores up to this one do not divide the losses; 0.0 in the paper
    # The training. A teacher is MODEL.TEACHER's.
    node.DISTILL_CLASS_WEIGHT = 1.0  # of the teacher's classes; later releases: 0.8 for M, 2.0 for L
    node.DISTILL_BIN_WEIGHT = 1.0  # of its distributions, beside BIN_WEIGHT
    node.DISTILL_FEATURE_WEIGHT = 0.0  # of where its maps are active; 10.0 in the training for quantisation
    node.DISTILL_TEMPERATURE = 20.0  # T of classes and distributions
    node.REP_SCALES = ""  # weights of a network of "scaled_sum" units, for SOLVER.OPTIMIZER "RepOptimizer"
    # Detections; their number is TEST.DETECTIONS_PER_IMAGE.
    node.SCORE_THRESH_TEST = 0.03
    node.NMS_THRESH_TEST = 0.65  # boxes of a class that overlap a better one by more are left out
    node.MULTI_LABEL_TEST = True  # a position may be of several classes
    # Side of a square in whose middle a picture is tested, the paper's grey border; 0: grey only on the right and
    # below, up to a multiple of the stride.
    node.FRAME_TEST = 0


def _add_input(cfg: CfgNode) -> None:
    """Adds the keys of INPUT.MAPPER "YOLOv6Mapper", whose squares have the sides of INPUT.MIN_SIZE_TRAIN."""
    cfg.INPUT.YOLOV6 = node = CfgNode()
    node.MOSAIC = 1.0  # probability that a sample is made of four pictures
    node.MIXUP = 0.0  # probability that another sample is laid over it; 0.1 for M and L
    node.PLAIN_EPOCHS = 15.0  # at the end of the training, without both
    node.DEGREES = 0.0  # largest rotation
    node.TRANSLATE = 0.1  # largest distance of the middle from where it was, as a share of the sides
    node.SCALE = 0.5  # largest difference of the scale from 1; 0.9 for M and L
    node.SHEAR = 0.0  # largest, degrees
    node.HSV = [0.015, 0.7, 0.4]  # largest changes of hue, saturation and value, as shares
    node.CACHE_MB = 0.0  # of resized pictures that each loader's process keeps in memory
    # Folder of resized pictures for all processes and later runs, about three bytes a pixel; "": none. In /dev/shm it
    # is memory that processes share.
    node.CACHE_DIR = ""


def shrink(cfg: CfgNode) -> None:
    """Makes the network of a merged config small enough to step in a test."""
    cfg.MODEL.YOLOV6.DEPTH = min(cfg.MODEL.YOLOV6.DEPTH, 0.1)
    cfg.MODEL.YOLOV6.WIDTH = min(cfg.MODEL.YOLOV6.WIDTH, 0.03)
    cfg.MODEL.YOLOV6.FRAME_TEST = min(cfg.MODEL.YOLOV6.FRAME_TEST, 128)
