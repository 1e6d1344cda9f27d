"""Every shipped YAML builds a shrunken model, takes one training step and one evaluation step."""

import numpy as np
import pytest
import torch

from densekit.d2._host import HOST
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model
from densekit.d2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.solver import build_lr_scheduler, build_optimizer
from tests.contract.shrinking import CONFIGS, ROOT, shrunken

SIZE = (96, 128)


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
    record = {
        "image": image,
        **frame,
        "instances": instances,
        "sem_seg": sem_seg,
        "hole": sem_seg == 1,
        "category_id": 1,
    }
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
        if "class_scores" in output:  # of the whole image
            assert output["class_scores"].shape == (cfg.MODEL.CLASSIFIER.NUM_CLASSES,)
            continue
        sizes = [value.image_size for value in output.values() if isinstance(value, Instances)]
        sizes += [output["sem_seg"].shape[1:]] if "sem_seg" in output else []
        sizes += [output["panoptic_seg"][0].shape] if "panoptic_seg" in output else []
        sizes += [output["inpainted"].shape[1:]] if "inpainted" in output else []
        assert sizes and all(tuple(size) == (SIZE[0] * 2, SIZE[1] * 2) for size in sizes)


def test_every_config_opens_with_its_command():
    for path in CONFIGS:
        first = path.read_text().splitlines()[0]
        assert str(path.relative_to(ROOT)) in first and first.startswith("#"), path
