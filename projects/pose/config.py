"""Configuration of top-down pose: ``MODEL.POSE``, switched on by ``MODEL.META_ARCHITECTURE TopDownPose``."""

from densekit.d2.config import CfgNode

from .view import View


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.POSE``; the number of keypoints is ``MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS``."""
    node = cfg.MODEL.POSE = CfgNode()
    node.INPUT_SIZE = [192, 256]  # width and height of a crop
    node.IN_FEATURE = "res2"  # map of the backbone that the heat maps come from
    node.NUM_DECONV = 0  # layers that double its size first; 3 on a map of stride 32 is "Simple Baselines"
    node.DECONV_DIM = 256  # their channels
    node.SIGMA = 2.0  # deviation of the targets in pixels of the heat maps; 3 for crops of 288 x 384
    node.HARDEST = 0  # only so many keypoints of a person count in the loss, the worst ones; 0: all
    node.PERSONS_PER_IMAGE = 8  # at most, in a step of training
    # Numbers of the keypoints that a mirror exchanges, and of those of the upper half of a body: COCO's persons.
    node.FLIP_PAIRS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
    node.UPPER_BODY = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]  # see above
    # Augmentation: the size of the region is drawn with a deviation of SCALE around 1, at most that far from it; the
    # angle with a deviation of ROTATION degrees, at most twice that.
    node.SCALE = 0.35
    node.ROTATION = 45.0  # degrees
    node.ROTATION_PROB = 0.6  # of turning a crop at all
    node.FLIP_PROB = 0.5  # of mirroring it
    node.HALF_BODY_PROB = 0.3  # of showing half a body, where more than 8 keypoints are labelled
    # Whose boxes an evaluation crops: "ground_truth", "detector" (MODEL.POSE.DETECTOR), or the path of a file of COCO
    # results, in which persons have BOX_CATEGORY.
    node.BOXES = "ground_truth"
    node.BOX_CATEGORY = 1  # number of persons in the file of BOXES
    node.BOX_SCORE_THRESH = 0.0  # boxes of a detector or a file with a lower score are left out
    node.DETECTOR = CfgNode()  # finds the persons in `densekit predict`, and in evaluations with BOXES "detector"
    node.DETECTOR.CONFIG_FILE = ""  # its configuration; "": the whole image is taken for one person
    node.DETECTOR.WEIGHTS = ""  # its weights
    node.DETECTOR.PERSON = 0  # number of its class of persons
    node.FLIP_TEST = True  # average the heat maps with those of the mirrored crop
    node.BATCH_TEST = 32  # crops at once in inference
    # The score of a pose is that of its box times the mean of the keypoints with a score above this.
    node.KEYPOINT_SCORE_THRESH = 0.2
    node.OKS_NMS_THRESH = 0.9  # poses more similar than this to a better one are left out


def adapt_config(cfg: CfgNode) -> None:
    """Takes the mapper that crops persons, and images of their own size in inference."""
    if cfg.MODEL.META_ARCHITECTURE == "TopDownPose":
        cfg.INPUT.MAPPER = cfg.INPUT.MAPPER or "PoseMapper"


def shrink(cfg: CfgNode) -> None:
    """Makes the crops of a config small enough to take a step of training in a test."""
    cfg.MODEL.POSE.INPUT_SIZE = [64, 96]
    cfg.MODEL.POSE.DECONV_DIM = 8


def view_from_config(cfg: CfgNode) -> View:
    """Reads the options of the crops of persons.

    Raises:
        ValueError: A pair names a keypoint that there is not.
    """
    node, count = cfg.MODEL.POSE, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    named = [k for pair in node.FLIP_PAIRS for k in pair]
    if any(len(pair) != 2 for pair in node.FLIP_PAIRS) or any(not 0 <= k < count for k in named):
        raise ValueError(
            f"MODEL.POSE.FLIP_PAIRS is {node.FLIP_PAIRS}; it has pairs of numbers below "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {count}, or is [] where a mirror exchanges none."
        )
    width, height = node.INPUT_SIZE
    return View(
        output=(width, height),
        pairs=node.FLIP_PAIRS,
        upper_body=node.UPPER_BODY,
        scale=node.SCALE,
        rotation=node.ROTATION,
        rotation_probability=node.ROTATION_PROB,
        mirror_probability=node.FLIP_PROB,
        half_body_probability=node.HALF_BODY_PROB,
    )


def detector_config(cfg: CfgNode) -> CfgNode | None:
    """The configuration of ``MODEL.POSE.DETECTOR``, on the same device; None without one.

    Raises:
        ValueError: Boxes of a detector are wanted and there is none, or it has no weights.
    """
    from densekit.config import load_config  # it reads the configurations of all systems, this one among them

    node = cfg.MODEL.POSE
    if not node.DETECTOR.CONFIG_FILE:
        if node.BOXES == "detector":
            raise ValueError("MODEL.POSE.BOXES is 'detector': name it in MODEL.POSE.DETECTOR.CONFIG_FILE and WEIGHTS.")
        return None
    if not node.DETECTOR.WEIGHTS:
        raise ValueError(
            f"MODEL.POSE.DETECTOR.WEIGHTS is '' for {node.DETECTOR.CONFIG_FILE}: a detector of random weights finds "
            "nobody."
        )
    detector = load_config(node.DETECTOR.CONFIG_FILE, ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    detector.freeze()
    return detector
