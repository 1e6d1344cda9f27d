"""The keys of a configuration with their defaults: the host's, densekit's own and those of every project."""

from collections.abc import Iterator

from densekit.d2.config import CfgNode, get_cfg


def add_densekit_config(cfg: CfgNode) -> None:
    """Adds the keys that densekit's trainer reads beside the host's."""
    # YAML file of own data sets, as --datasets, which goes before it; docs/own_data.md. Relative to where the command
    # is started, like every other path of a configuration.
    cfg.DATASETS.CATALOG = ""
    _add_input(cfg)
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
    cfg.MODEL.SHARDING.ENABLED = False
    # Class names of the backbone's modules that are gathered one at a time; []: the members of its sequences.
    cfg.MODEL.SHARDING.BLOCKS = []
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW" (arXiv 1711.05101)
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # on the learning rate of the parameters below a module named `backbone`
    cfg.TEST.BOUNDARY = False  # judge masks and classes by their boundaries too (arXiv 2103.16562)
    cfg.TEST.COCO_DETECTIONS = 0  # of an image and class, the best so many count in COCO's AP; 0: COCO's 100
    cfg.SOLVER.CHECKPOINT_KEEP = 0  # how many of the periodic checkpoints stay on the disk; 0: all of them
    cfg.SOLVER.CHECKPOINT_KEEP_BEST = 1  # how many of the best by BEST_METRIC stay beside those; needs CHECKPOINT_KEEP
    # The result that decides which weights are model_best.pth, as metrics.json names it: "bbox/AP", "validation_loss",
    # "coco_2017_val/bbox/AP" with several test sets; "": none does.
    cfg.TEST.BEST_METRIC = ""
    cfg.TEST.BEST_MODE = ""  # "max" or "min" is best; "": by the name, "min" for losses and errors
    cfg.TEST.EARLY_STOPPING = 0  # the training ends after so many evaluations without a new best; 0: it does not
    cfg.TEST.VALIDATION_LOSS = False  # evaluations compute the training losses on DATASETS.TEST too
    # Running average of the weights, which is what is evaluated and what model_best.pth and model_final.pth hold.
    cfg.MODEL_EMA = CfgNode()
    cfg.MODEL_EMA.ENABLED = False
    cfg.MODEL_EMA.DECAY = 0.999  # of the average in each iteration
    cfg.WRITERS = []  # where metrics go beside metrics.json and TensorBoard: "wandb", "mlflow"
    # LR_SCHEDULER_NAME "WarmupPolyLR" (arXiv 1606.00915): (1 - iteration / MAX_ITER) ** POWER, after a warm-up.
    cfg.SOLVER.POLY_LR_POWER = 0.9  # 1.0 is a straight line
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # the factor never falls below this
    # The least share of the model's entries that MODEL.WEIGHTS must fill: below it the file is taken for another
    # architecture's, and refused. A backbone alone is well above it; 0.0 takes what fits, however little.
    cfg.MODEL.WEIGHTS_MIN_COVERAGE = 0.1
    # BACKBONE.NAME build_fpn_backbone: a pyramid on any backbone.
    cfg.MODEL.FPN.BOTTOM_UP = "build_resnet_backbone"  # name of the backbone below it
    cfg.MODEL.FPN.UPSAMPLER = "nearest"  # of the top-down path, a name of densekit.layers.UPSAMPLERS
    # What is above the backbone's last map: "maxpool" of the last output (Detectron2), or "conv", a convolution of
    # stride 2 on the backbone's map, where the top-down path starts (mmdetection's CARAFE pyramid).
    cfg.MODEL.FPN.TOP_LEVEL = "maxpool"
    # ROI_MASK_HEAD.NAME UpsamplerMaskHead: its upsampling layer, "deconv" being the host's own.
    cfg.MODEL.ROI_MASK_HEAD.UPSAMPLER = "deconv"
    _add_semantic_heads(cfg)


def _add_input(cfg: CfgNode) -> None:
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0  # of CropAfterResizeMapper: a crop holds less of any class than that
    cfg.INPUT.COLOR_AUG_SSD = False  # of CropAfterResizeMapper: the colour distortions of SSD (arXiv 1512.02325)
    # How many bits of a grey picture's 16 are used: 12 for 0 .. 4095; 0: what the file says, and 16 if it says nothing.
    cfg.INPUT.BIT_DEPTH = 0
    cfg.INPUT.MAPPER = ""  # name of the mapper that turns an annotation into training tensors; "": by the task


def _add_semantic_heads(cfg: CfgNode) -> None:
    node = cfg.MODEL.SEM_SEG_HEAD
    # A head on an earlier map that helps in training, of UPerHead and DeepLabV3PlusSemanticHead.
    node.AUXILIARY = CfgNode()
    node.AUXILIARY.IN_FEATURE = ""  # its map, e.g. "res4"; "": no such head
    node.AUXILIARY.CONVS_DIM = 256  # channels
    node.AUXILIARY.NUM_CONV = 1  # 3x3 convolutions before the classifier
    node.AUXILIARY.LOSS_WEIGHT = 0.4
    # SEM_SEG_HEAD.NAME DeepLabV3PlusSemanticHead (arXiv 1802.02611), keys of Detectron2's DeepLab project.
    node.PROJECT_CHANNELS = [48]  # of each map but the coarsest, finest first, as it enters the decoder
    node.ASPP_CHANNELS = 256
    node.ASPP_DILATIONS = [6, 12, 18]  # for a coarsest map of stride 16; twice that for stride 8
    node.ASPP_DROPOUT = 0.1
    node.USE_DEPTHWISE_SEPARABLE_CONV = False
    # SEM_SEG_HEAD.NAME UPerHead (arXiv 1807.10221); SEM_SEG_HEAD.CONVS_DIM are its channels, 512 in the paper's.
    node.DROPOUT = 0.0  # probability that a channel is dropped before the classifier, of the auxiliary head's too
    node = cfg.MODEL.UPERNET = CfgNode()
    # "mmseg" convolves what was pooled, then enlarges it, and has its loss at every pixel; "csail", the authors',
    # enlarges it first, and has its loss at the stride of the scores.
    node.CONVENTION = "mmseg"
    node.POOL_SCALES = [1, 2, 3, 6]  # sides of the pooling grids
    # Names of densekit.layers.UPSAMPLERS, as in CARAFE's ablation (arXiv 1905.02188, section 5.2). "bilinear" is
    # UPerNet's own: straight to the size that is needed.
    node.PPM_UPSAMPLER = "bilinear"  # of what was pooled; a layer does the last doubling
    node.FPN_UPSAMPLER = "bilinear"  # of the top-down path
    node.FUSE_UPSAMPLER = "bilinear"  # of the levels to the finest size; a layer takes them there step by step


def default_config() -> CfgNode:
    """Returns the defaults of the host, of densekit and of every project."""
    import densekit.modeling  # noqa: F401 - registers parts that any config may name
    from densekit.projects import add_all_configs  # registers every system

    cfg = get_cfg()
    add_densekit_config(cfg)
    add_all_configs(cfg)
    return cfg


def key_owners() -> dict[str, str]:
    """Returns every key that a project has added -> its folder, such as ``projects/carafe``."""
    from densekit.projects import add_each_config

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
