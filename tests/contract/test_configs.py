"""Every shipped YAML builds a shrunken model, takes one training step and one evaluation step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.config import load_config
from densekit.d2._host import HOST
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model
from densekit.d2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.solver import build_lr_scheduler, build_optimizer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "_base_" not in path.parts)
SIZE = (96, 128)

# Everything that sets a width, in any system: what a config does not have is left out.
SHRINK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,  # group norm has 32 groups
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 32,
    "MODEL.SEM_SEG_HEAD.AUXILIARY.CONVS_DIM": 32,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "MODEL.TEMPLATE.HIDDEN_DIM": 16,
    "MODEL.ROI_MASK_HEAD.FC_DIM": 16,
    "MODEL.POINT_HEAD.FC_DIM": 16,
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": 25,
    "MODEL.MASK_SCORING.CONV_DIM": 8,
    "MODEL.MASK_SCORING.FC_DIM": 16,
    "MODEL.DETR.HIDDEN_DIM": 128,
    "MODEL.DETR.DIM_FEEDFORWARD": 16,
    "MODEL.DETR.ENC_LAYERS": 1,
    "MODEL.DETR.DEC_LAYERS": 2,
    "MODEL.DETR.NUM_OBJECT_QUERIES": 6,
}


def shrunken(path: Path) -> CfgNode:
    cfg = load_config(str(path), [])
    for key, value in SHRINK.items():
        cfg.merge_from_list([key, value])
    depth = min(cfg.MODEL.RESNETS.DEPTH, 50)
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    if depth < 50:  # ResNet-18 and -34 have one width
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    width = 16
    if cfg.MODEL.RESNETS.NORM == "GN":  # which normalises 32 groups of channels
        width = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = width
    if cfg.MODEL.RESNETS.NUM_GROUPS > 1:
        cfg.MODEL.RESNETS.NUM_GROUPS = 2
    if cfg.MODEL.ROI_BOX_HEAD.NUM_CONV:
        cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = width
    if cfg.MODEL.ROI_BOX_HEAD.NUM_FC:
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16] * len(cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS)
    return cfg


def ground_truth(cfg: CfgNode) -> Instances:
    """Two objects, one of them with everything that any head asks for."""
    boxes = torch.tensor([[10.0, 12.0, 70.0, 80.0], [60.0, 20.0, 120.0, 90.0]])
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.zeros(2, dtype=torch.int64)
    if cfg.MODEL.MASK_ON:
        corners = [np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=float) for x0, y0, x1, y1 in boxes.tolist()]
        polygons = PolygonMasks([[corner] for corner in corners])
        bits = cfg.INPUT.MASK_FORMAT == "bitmask"
        instances.gt_masks = BitMasks.from_polygon_masks(polygons, *SIZE) if bits else polygons
    if cfg.MODEL.KEYPOINT_ON:
        count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        steps = torch.linspace(0.2, 0.8, count)[None, :, None]
        points = boxes[:, None, :2] + steps * (boxes[:, None, 2:] - boxes[:, None, :2])
        instances.gt_keypoints = Keypoints(torch.cat([points, torch.full((2, count, 1), 2.0)], dim=2))
    return instances


def sample(cfg: CfgNode) -> dict:
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    instances = ground_truth(cfg)
    sem_seg = torch.zeros(SIZE, dtype=torch.int64)
    sem_seg[:, 40:80], sem_seg[:, 80:] = 1, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    frame = {"height": SIZE[0] * 2, "width": SIZE[1] * 2}
    record = {"image": image, **frame, "instances": instances, "sem_seg": sem_seg}
    if cfg.MODEL.LOAD_PROPOSALS:
        proposals = Instances(SIZE)
        proposals.proposal_boxes = Boxes(instances.gt_boxes.tensor + 3)
        proposals.objectness_logits = torch.ones(2)
        record["proposals"] = proposals
    return record


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_config_trains_and_evaluates_a_step(path):
    cfg = shrunken(path)
    if HOST == "detectron2" and any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        pytest.skip("Detectron2's deformable convolution does not run on CPUs")
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, optimizer)
    batch = [sample(cfg), sample(cfg)]
    with EventStorage():
        losses = model(batch)
    assert losses and all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, without
    optimizer.step()
    schedule.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())

    model.eval()
    with torch.no_grad():
        outputs = model(batch)
    assert len(outputs) == 2
    for output in outputs:
        sizes = [value.image_size for value in output.values() if isinstance(value, Instances)]
        sizes += [output["sem_seg"].shape[1:]] if "sem_seg" in output else []
        sizes += [output["panoptic_seg"][0].shape] if "panoptic_seg" in output else []
        assert sizes and all(tuple(size) == (SIZE[0] * 2, SIZE[1] * 2) for size in sizes)


def test_every_config_opens_with_its_command():
    for path in CONFIGS:
        first = path.read_text().splitlines()[0]
        assert str(path.relative_to(ROOT)) in first and first.startswith("#"), path
