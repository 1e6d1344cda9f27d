"""The real Detectron2 and the built-in runtime in one process: same YAML, same parameters, same numbers."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tolerances import PARITY

detectron2 = pytest.importorskip("detectron2")

PACKAGE = Path(detectron2.__file__).resolve().parent
CONFIGS = next((f for f in (PACKAGE / "model_zoo" / "configs", PACKAGE.parent / "configs") if f.is_dir()), PACKAGE)
if CONFIGS == PACKAGE:
    pytest.skip("Detectron2 is installed without its configs", allow_module_level=True)

PATTERNS = (
    "COCO-Detection/faster_rcnn*.yaml",
    "COCO-Detection/fast_rcnn*.yaml",
    "COCO-Detection/rpn*.yaml",
    "COCO-Detection/retinanet*.yaml",
    "COCO-InstanceSegmentation/*.yaml",
    "COCO-Keypoints/*.yaml",
    "COCO-PanopticSegmentation/*.yaml",
    "Cityscapes/*.yaml",
    "Misc/cascade*.yaml",
    "Misc/*gn*.yaml",
    "Misc/*syncbn*.yaml",
    "Misc/*dconv*.yaml",
    "Misc/*cls_agnostic*.yaml",
    "Misc/semantic*.yaml",
)
YAMLS = sorted({path.relative_to(CONFIGS).as_posix() for pattern in PATTERNS for path in CONFIGS.glob(pattern)})


class Host:
    """One of the two implementations, by the root of its package."""

    def __init__(self, root):
        self.get_cfg = importlib.import_module(f"{root}.config").get_cfg
        self.structures = importlib.import_module(f"{root}.structures")
        self.build_model = importlib.import_module(f"{root}.modeling").build_model
        self.with_augmentation = importlib.import_module(f"{root}.modeling").GeneralizedRCNNWithTTA
        self.event_storage = importlib.import_module(f"{root}.utils.events").EventStorage

    def cfg(self, yaml, *overrides):
        cfg = self.get_cfg()
        cfg.merge_from_file(str(CONFIGS / yaml))
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
        return cfg


@pytest.fixture(scope="module")
def hosts():
    return Host("detectron2"), Host("densekit.runtime")


# --- every YAML: same keys, same parameters ---------------------------------------------------------------------------


def values(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("yaml", YAMLS)
def test_yaml_parses_unchanged_with_equal_parameters(hosts, yaml):
    theirs, ours = (host.cfg(yaml, "MODEL.DEVICE", "meta") for host in hosts)
    expected = dict(values(theirs))
    differing = {key: value for key, value in values(ours) if key not in expected or expected[key] != value}
    assert not differing

    parameters = []
    for host, cfg in zip(hosts, (theirs, ours)):
        with torch.device("meta"):
            model = host.build_model(cfg)
        parameters.append(
            (
                {name: tuple(value.shape) for name, value in model.state_dict().items()},
                {name for name, value in model.named_parameters() if value.requires_grad},
            )
        )
    assert parameters[0] == parameters[1]


# --- one of each family: same numbers ---------------------------------------------------------------------------------

FAMILIES = {
    "c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "dc5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml",
    "fpn_mask": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "resnext": "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
    "keypoint": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "cls_agnostic": "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml",
    "gn": "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn.yaml",
    "syncbn": "Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml",
    "dconv": "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
    "giou": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_giou.yaml",
    "rpn": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "rpn_c4": "COCO-Detection/rpn_R_50_C4_1x.yaml",
    "fast_rcnn": "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
    "panoptic": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "semantic": "Misc/semantic_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "cityscapes": "Cityscapes/mask_rcnn_R_50_FPN.yaml",
}
# Variants that no YAML of Detectron2 switches on: a family, and overrides as on the command line.
EXTRA = {
    "diou": ("fpn_mask", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE diou MODEL.RPN.BBOX_REG_LOSS_TYPE diou"),
    "ciou": ("fpn_mask", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE ciou MODEL.RPN.BBOX_REG_LOSS_TYPE ciou"),
    "smooth": ("fpn_mask", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0.5 MODEL.RPN.SMOOTH_L1_BETA 0.1"),
    "roi_pool": ("fpn_mask", "MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIPool"),
    "roi_align_v1": ("fpn_mask", "MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlign MODEL.ROI_MASK_HEAD.POOLER_TYPE ROIAlign"),
    "pred_boxes": ("fpn_mask", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES True"),
    "keypoint_all": ("keypoint", "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS False"),
    "retinanet_giou": (
        "retinanet",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE giou MODEL.RETINANET.NORM GN MODEL.FPN.OUT_CHANNELS 32",
    ),
    "retinanet_bn": ("retinanet", "MODEL.RETINANET.NORM BN MODEL.RETINANET.SMOOTH_L1_LOSS_BETA 0.1"),
    "r18": ("fpn_mask", "MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.STEM_OUT_CHANNELS 64"),
}
CASES = {name: (yaml, []) for name, yaml in FAMILIES.items()}
CASES.update({name: (FAMILIES[base], overrides.split()) for name, (base, overrides) in EXTRA.items()})

SIZES = ((96, 128), (110, 90))


def shrunken(host, case):
    """The config at a fraction of its width, sampling every candidate so that no random draw matters."""
    yaml, overrides = CASES[case]
    cfg = host.cfg(yaml)
    width = 32 if "GN" in (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM) else 8  # group norm has 32 groups
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 2 * width
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width // 2 if width == 8 else width
    if cfg.MODEL.RESNETS.NUM_GROUPS > 1:
        cfg.MODEL.RESNETS.NUM_GROUPS = 4
    cfg.MODEL.RESNETS.DEPTH = min(cfg.MODEL.RESNETS.DEPTH, 50)
    cfg.MODEL.FPN.OUT_CHANNELS = 2 * width
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16, 16]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1 if cfg.MODEL.KEYPOINT_ON else 5
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 1_000_000
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 4_000
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    cfg.merge_from_list(overrides)
    return cfg


def randomize(model):
    """Weights with which each layer says something: the initial ones give nearly constant scores."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else None
            if noise is None:
                continue
            if name.endswith("running_var"):
                value.copy_(1 + noise.abs() / 2)
            elif "norm" in name and name.endswith("weight"):
                # The stem brings pixels to unit size, and blocks add little to their shortcut.
                value.copy_((1 + noise / 10) * (0.02 if "stem" in name else 0.3 if "conv3" in name else 1))
            elif name.endswith(("bias", "running_mean")):
                value.copy_(noise / 10)
            elif name.endswith("weight"):
                gain = 0.2 if "offset" in name or "bbox_pred" in name or "anchor_deltas" in name else 1.4
                value.copy_(noise * gain / math.sqrt(value[0].numel()))


def ground_truth(host, cfg, index, size):
    """Two objects in the first image, none in the second."""
    s = host.structures
    height, width = size
    boxes = torch.tensor([[10.0, 12.0, 70.0, 80.0], [50.0, 20.0, 88.0, 90.0]])[: 2 if index == 0 else 0]
    classes = torch.tensor([0, 3])[: len(boxes)] % cfg.MODEL.ROI_HEADS.NUM_CLASSES
    instances = s.Instances(size, gt_boxes=s.Boxes(boxes), gt_classes=classes)
    if cfg.MODEL.MASK_ON:
        polygons = [[np.array([x0, y0, x1, y0 + 5, x1 - 3, y1, x0 + 2, y1 - 9])] for x0, y0, x1, y1 in boxes.numpy()]
        instances.gt_masks = s.PolygonMasks(polygons)
    if cfg.MODEL.KEYPOINT_ON:
        points = torch.rand(2, 17, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([width, height, 2.99])
        points[..., 2].floor_()
        instances.gt_keypoints = s.Keypoints(points[: len(boxes)])
    return instances


def batch(host, cfg, training):
    s, generator = host.structures, torch.Generator().manual_seed(2)
    inputs = []
    for index, size in enumerate(SIZES):
        image = torch.rand(3, *size, generator=generator) * 255
        item = {"image": image, "height": 2 * size[0], "width": 2 * size[1]}
        if cfg.MODEL.LOAD_PROPOSALS:
            corner = torch.rand(50, 2, generator=generator) * torch.tensor([size[1], size[0]]) * 0.6
            extent = 8 + torch.rand(50, 2, generator=generator) * torch.tensor([size[1], size[0]]) * 0.35
            item["proposals"] = s.Instances(
                size,
                proposal_boxes=s.Boxes(torch.cat([corner, corner + extent], dim=1)),
                objectness_logits=torch.rand(50, generator=generator),
            )
        if training:
            item["instances"] = ground_truth(host, cfg, index, size)
            labels = torch.randint(0, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, size, generator=generator)
            labels[:9] = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
            item["sem_seg"] = labels
        inputs.append(item)
    return inputs


def tensors(output, prefix=""):
    """A model's output as tensors by name."""
    if isinstance(output, torch.Tensor):
        yield prefix, output
    elif isinstance(output, dict):
        for key in sorted(output):
            yield from tensors(output[key], f"{prefix}.{key}")
    elif isinstance(output, list | tuple):
        for i, item in enumerate(output):
            yield from tensors(item, f"{prefix}[{i}]")
    elif hasattr(output, "get_fields"):
        yield from tensors(dict(output.get_fields()), prefix)
    elif hasattr(output, "tensor"):
        yield prefix, output.tensor
    else:
        yield prefix, torch.as_tensor(output)


def assert_equal_outputs(ours, theirs):
    """Within 1e-4 of the largest value; maps of labels may differ where two probabilities tie."""
    ours, theirs = dict(tensors(ours)), dict(tensors(theirs))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        if expected.numel() == 0:
            continue
        if expected.dtype == torch.bool or "panoptic_seg[0]" in name:
            assert (ours[name] == expected).float().mean() > 0.999, name
        else:
            difference, scale = (ours[name] - expected).abs().max(), max(expected.abs().max(), 1)
            tolerance = 1e-3 if name.endswith("area") else PARITY["atol"]  # areas count pixels of those maps
            assert difference / scale <= tolerance, f"{name} is off by {difference:.2e} at values up to {scale:.2e}"


@pytest.fixture(scope="module", params=sorted(CASES))
def pair(request, hosts):
    """The same model in both hosts, with the same weights."""
    configs = [shrunken(host, request.param) for host in hosts]
    models = [host.build_model(cfg) for host, cfg in zip(hosts, configs)]
    randomize(models[0])
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        model.eval()
    return request.param, configs, models


def test_equal_weights_give_equal_outputs(hosts, pair):
    _, configs, models = pair
    with torch.no_grad():
        theirs, ours = (model(batch(host, cfg, False)) for host, cfg, model in zip(hosts, configs, models))
    named = dict(tensors(theirs))
    assert named and all(value.numel() for name, value in named.items() if "image" not in name)
    assert_equal_outputs(ours, theirs)


def test_equal_weights_give_equal_losses_and_gradients(hosts, pair):
    name, configs, models = pair
    results = []
    for host, cfg, model in zip(hosts, configs, models):
        model.train()
        for module in model.modules():  # batch statistics of tiny maps are noise, and would change the buffers
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        with host.event_storage():
            losses = model(batch(host, cfg, True))
            if name != "dconv":  # Detectron2's deformable convolution has no backward pass on the CPU
                sum(losses.values()).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        model.eval()
        results.append((losses, gradients))
    (their_losses, their_gradients), (our_losses, our_gradients) = results
    assert_equal_outputs(our_losses, their_losses)
    assert our_gradients.keys() == their_gradients.keys()
    # Gradients far below the others are rounding errors, as those of a bias in front of a softmax.
    floor = 1e-3 * max((g.abs().max() for g in their_gradients.values()), default=1.0)
    for key, expected in their_gradients.items():
        scale = max(expected.abs().max(), floor)
        difference = (our_gradients[key] - expected).abs().max() / scale
        assert difference < 1e-3, f"gradient of {key} is off by {difference:.2e} of its largest value"


@pytest.mark.parametrize("case", ["fpn_mask", "c4"])
def test_test_time_augmentation_merges_equally(hosts, case):
    results, weights = [], None
    for host in hosts:
        cfg = shrunken(host, case)
        cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (72, 100), 140, True
        model = host.build_model(cfg).eval()
        if weights is None:
            randomize(model)
            weights = model.state_dict()
        model.load_state_dict(weights)
        inputs = [{**x, "image": x["image"].to(torch.uint8)} for x in batch(host, cfg, False)]
        with torch.no_grad():
            results.append(host.with_augmentation(cfg, model)(inputs))
    assert all(len(x["instances"]) > 3 for x in results[0])
    assert_equal_outputs(results[1], results[0])
