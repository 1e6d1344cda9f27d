"""The keys of a configuration with their defaults: the host's, densekit's own and those of every project."""

from collections.abc import Iterator

from densekit.d2.config import CfgNode, get_cfg
from densekit.modeling.config import add_modeling_config
from densekit.projects import add_all_configs, add_each_config


def add_densekit_config(cfg: CfgNode) -> None:
    """Adds the keys that densekit reads beside the host's: the trainer's here, a shared part's where the part is."""
    # YAML file of own data sets, as --datasets, which goes before it; docs/own_data.md. Relative to where the command
    # is started, like every other path of a configuration.
    cfg.DATASETS.CATALOG = ""
    _add_input(cfg)
    _add_inference(cfg)
    _add_test(cfg)
    # A batch of IMS_PER_BATCH images is cut into so many parts, one forward and backward pass each: the same step in
    # less memory. Losses and gradients are the means over the parts.
    cfg.SOLVER.ACCUMULATE = 1
    cfg.SOLVER.AMP.DTYPE = "float16"  # of mixed precision; or "bfloat16", which needs no scaling of the losses
    # How many images in a step BASE_LR was chosen for: for another IMS_PER_BATCH it is scaled, with SGD in proportion,
    # with AdamW with the square root, unless it stands nearer to the user than this key. 0: never.
    cfg.SOLVER.REFERENCE_BATCH_SIZE = 0
    # How many times the data set is gone through; MAX_ITER follows, and STEPS and periods keep their share of the run
    # unless they are given beside it. 0: MAX_ITER counts.
    cfg.SOLVER.MAX_EPOCHS = 0.0
    # How many steps in a row may be skipped because a loss or gradient is infinite or NaN; 0: the first ends the run.
    # Where the forward pass of one of several processes raises such an error, all skip it; with SHARDING, STATIC_GRAPH
    # or synchronized BatchNorm they cannot, and the run ends.
    cfg.SOLVER.NAN_SKIP = 0
    cfg.MODEL.DDP = CfgNode()  # several processes, each with a replica of the model
    cfg.MODEL.DDP.STATIC_GRAPH = False  # faster where every step uses the same parameters; others fail
    cfg.MODEL.DDP.FIND_UNUSED_PARAMETERS = False  # needed where a step may leave parameters out; slower
    cfg.MODEL.SHARDING = CfgNode()  # each with a part of the parameters, gradients and optimizer states (FSDP2)
    cfg.MODEL.SHARDING.ENABLED = False  # the parameters are shared among the processes
    # Class names of the backbone's modules that are gathered one at a time; []: the members of its sequences.
    cfg.MODEL.SHARDING.BLOCKS = []
    cfg.SOLVER.OPTIMIZER = "SGD"  # a name of OPTIMIZER_REGISTRY: "AdamW" (arXiv 1711.05101), "Adam" or a system's own
    cfg.SOLVER.BETAS = [0.9, 0.999]  # of Adam and AdamW
    # LR_SCHEDULER_NAME "GroupWarmupCosineLR": the rate that the warm-up of biases starts with, falling to that of the
    # schedule, and the momentum that all start with; below 0: they start as the others do, and it stays as it is.
    cfg.SOLVER.WARMUP_BIAS_LR = -1.0
    cfg.SOLVER.WARMUP_MOMENTUM = -1.0  # see above
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # on the learning rate of the parameters below a module named `backbone`
    cfg.SOLVER.CHECKPOINT_KEEP = 0  # how many of the periodic checkpoints stay on the disk; 0: all of them
    cfg.SOLVER.CHECKPOINT_KEEP_BEST = 1  # how many of the best by BEST_METRIC stay beside those; needs CHECKPOINT_KEEP
    # Running average of the weights, which is what is evaluated and what model_best.pth and model_final.pth hold.
    cfg.MODEL_EMA = CfgNode()
    cfg.MODEL_EMA.ENABLED = False  # keep and evaluate it
    cfg.MODEL_EMA.DECAY = 0.999  # of the average in each iteration
    cfg.MODEL_EMA.RAMP = 0.0  # update number n has DECAY * (1 - exp(-n / RAMP)); 0.0: DECAY from the first
    cfg.MODEL.TEACHER = CfgNode()  # a frozen model beside those that learn from one
    cfg.MODEL.TEACHER.CONFIG_FILE = ""  # of the teacher; "": it has the student's configuration
    cfg.MODEL.TEACHER.WEIGHTS = ""  # as MODEL.WEIGHTS; "": there is no teacher
    cfg.WRITERS = []  # where metrics go beside metrics.json and TensorBoard: "wandb", "mlflow"
    # LR_SCHEDULER_NAME "WarmupPolyLR" (arXiv 1606.00915): (1 - iteration / MAX_ITER) ** POWER, after a warm-up.
    cfg.SOLVER.POLY_LR_POWER = 0.9  # 1.0 is a straight line
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # the factor never falls below this
    # The least share of the model's entries that MODEL.WEIGHTS must fill: below it the file is taken for another
    # architecture's, and refused. A backbone alone is well above it; 0.0 takes what fits, however little.
    cfg.MODEL.WEIGHTS_MIN_COVERAGE = 0.1
    add_modeling_config(cfg)


def _add_test(cfg: CfgNode) -> None:
    cfg.TEST.BOUNDARY = False  # judge masks and classes by their boundaries too (arXiv 2103.16562)
    cfg.TEST.COCO_DETECTIONS = 0  # of an image and class, the best so many count in COCO's AP; 0: COCO's 100
    # The result that decides which weights are model_best.pth, as metrics.json names it: "bbox/AP", "validation_loss",
    # "coco_2017_val/bbox/AP" with several test sets; "": none does.
    cfg.TEST.BEST_METRIC = ""
    cfg.TEST.BEST_MODE = ""  # "max" or "min" is best; "": by the name, "min" for losses and errors
    cfg.TEST.EARLY_STOPPING = 0  # the training ends after so many evaluations without a new best; 0: it does not
    # Every so many iterations, predictions on the first four images of DATASETS.TEST are drawn in OUTPUT_DIR/pictures.
    cfg.TEST.PICTURES_PERIOD = 0  # 0: never
    cfg.TEST.VALIDATION_LOSS = False  # evaluations compute the training losses on DATASETS.TEST too


def _add_inference(cfg: CfgNode) -> None:
    cfg.MODEL.EXPORTED = ""  # a file of densekit export that evaluates and predicts in the model's place
    cfg.MODEL.INFERENCE = CfgNode()  # the copy of the model that evaluates and predicts; docs/inference_form.md
    cfg.MODEL.INFERENCE.FUSE = True  # norms with fixed statistics become part of convolutions
    # The channels of a pixel side by side, on CPUs; on GPUs with bfloat16 only. Not in models with GroupNorm.
    cfg.MODEL.INFERENCE.CHANNELS_LAST = True
    # "bfloat16", where the device computes in it: features, not boxes, scores and masks; it changes the third digit.
    cfg.MODEL.INFERENCE.DTYPE = "float32"


def _add_input(cfg: CfgNode) -> None:
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0  # of CropAfterResizeMapper: a crop holds less of any class than that
    cfg.INPUT.CROP.PAD = False  # of CropAfterResizeMapper: smaller pictures are filled up to a CROP.SIZE in pixels
    # Of CropAfterResizeMapper: factors of a picture's own size, in place of MIN_SIZE_TRAIN; (): MIN_SIZE_TRAIN counts.
    cfg.INPUT.SCALES = ()
    cfg.INPUT.SCALES_SAMPLING = "range"  # SCALES are the least and the largest; or "choice": those to choose from
    # Of CropAfterResizeMapper: the least and the largest angle in degrees, by which every other picture is turned.
    cfg.INPUT.ROTATION = ()
    # Of CropAfterResizeMapper: the least and the largest standard deviation in pixels, for every other picture.
    cfg.INPUT.BLUR = ()
    # Of ClassUniformTrainingSampler: the share of the crops in an epoch that lie around pixels of a class.
    cfg.DATALOADER.CLASS_UNIFORM_SHARE = 0.5
    cfg.INPUT.COLOR_AUG_SSD = False  # of CropAfterResizeMapper: the colour distortions of SSD (arXiv 1512.02325)
    # Of ImageClassMapper: square cuts, as classifiers are trained on (arXiv 1409.4842, section 6).
    cfg.INPUT.CUT = CfgNode()
    cfg.INPUT.CUT.SIZE = 224  # side of what the model sees, pixels
    cfg.INPUT.CUT.AREA = (0.08, 1.0)  # in training, the least and the largest share of the picture
    cfg.INPUT.CUT.ASPECT = (0.75, 1.3333333333333333)  # in training, the least and the largest width over height
    cfg.INPUT.CUT.TEST_SHARE = 0.875  # in evaluation, the side of the middle that is cut, over the shorter side
    # How many bits of a grey picture's 16 are used: 12 for 0 .. 4095; 0: what the file says, and 16 if it says nothing.
    cfg.INPUT.BIT_DEPTH = 0
    cfg.INPUT.MAPPER = ""  # name of the mapper that turns an annotation into training tensors; "": by the task


def default_config() -> CfgNode:
    """Returns the defaults of the host, of densekit and of every project."""
    cfg = get_cfg()
    add_densekit_config(cfg)
    add_all_configs(cfg)
    return cfg


def key_owners() -> dict[str, str]:
    """Returns every key that a project has added -> its folder, ``projects/<system>``."""
    cfg = get_cfg()
    add_densekit_config(cfg)
    owners: dict[str, str] = {}
    known = set(all_keys(cfg))
    for name in add_each_config(cfg):
        owners |= dict.fromkeys(set(all_keys(cfg)) - known, f"projects/{name}")
        known |= owners.keys()
    return owners


def all_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yields ``A``, ``A.B`` ... for every key below a node, nodes included."""
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from all_keys(value, f"{prefix}{key}.")
