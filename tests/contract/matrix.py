"""Every backbone under every head by configuration keys alone: each pair is built and takes a step.

``python -m tests.contract.matrix [WORD]`` runs all pairs, or those in whose names the word occurs, and prints a line
for each; the exit code is 1 where one fails. The test takes a subset with every backbone and every head.
"""

import sys
import traceback
from dataclasses import dataclass

import torch

from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model
from densekit.d2.structures import Instances
from densekit.d2.utils.events import EventStorage
from tests.contract.shrinking import ROOT, shrunken
from tests.contract.test_configs import SIZE, sample


@dataclass(frozen=True)
class Backbone:
    """A backbone: what MODEL.BACKBONE.NAME says, its maps of strides 4 to 32, and the key that chooses them, if any."""

    builder: str
    maps: tuple[str, ...]
    key: str = ""


_RES, _STAGES = ("res2", "res3", "res4", "res5"), ("stage2", "stage3", "stage4", "stage5")
BACKBONES = {
    "ResNet": Backbone("build_resnet_backbone", _RES, "MODEL.RESNETS.OUT_FEATURES"),
    "Swin": Backbone("build_swin_backbone", _RES, "MODEL.SWIN.OUT_FEATURES"),
    "HRNet": Backbone("build_hrnet_backbone", _RES, "MODEL.HRNET.OUT_FEATURES"),
    "MPViT": Backbone("MPViTBackbone", _STAGES, "MODEL.MPVIT.OUT_FEATURES"),
    "timm": Backbone("TimmBackbone", _STAGES),
    "torchvision": Backbone("TorchvisionBackbone", _STAGES),
}

# A head: its configuration, whether it has a pyramid below it, and which of the maps it takes.
HEADS = {
    "Faster R-CNN": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", True, (0, 1, 2, 3)),
    "Mask R-CNN": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", True, (0, 1, 2, 3)),
    "Cascade Mask R-CNN": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", True, (0, 1, 2, 3)),
    "RetinaNet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", True, (1, 2, 3)),
    "PointRend": ("pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml", True, (0, 1, 2, 3)),
    "mask scoring": ("mask_scoring/mask_scoring_R_50_FPN_1x.yaml", True, (0, 1, 2, 3)),
    "CARAFE FPN": ("carafe/mask_rcnn_R_50_FPN_carafe_fpn_1x.yaml", True, (0, 1, 2, 3)),
    "Semantic FPN": ("Misc/semantic_R_50_FPN_1x.yaml", True, (0, 1, 2, 3)),
    "Panoptic FPN": ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", True, (0, 1, 2, 3)),
    "DETR": ("detr/detr_R_50.yaml", False, (3,)),
    "UPerNet": ("upernet/upernet_R_50_ade20k.yaml", False, (0, 1, 2, 3)),
    "HRNetV2 head": ("hrnet/hrnet_w48_cityscapes.yaml", False, (0, 1, 2, 3)),
    "OCR": ("ocr/ocr_R_50_dilated_cityscapes.yaml", False, (3,)),
    "SPNet": ("spnet/spnet_R_50_ade20k.yaml", False, (3,)),
    "CaC-Net": ("cacnet/cacnet_R_50_camvid.yaml", False, (3,)),
    "DeepLabV3+": ("deeplab/deeplab_R_50_cityscapes.yaml", False, (0, 3)),
}


def pairs() -> list[tuple[str, str]]:
    """Every backbone with every head."""
    return [(backbone, head) for head in HEADS for backbone in BACKBONES]


def covering() -> list[tuple[str, str]]:
    """Two backbones for each head, so that each backbone is under a head of each kind."""
    names = list(BACKBONES)
    return [(names[(2 * i + k) % len(names)], head) for i, head in enumerate(HEADS) for k in range(2)]


def configuration(backbone: str, head: str) -> CfgNode:
    """The shrunken configuration of a head with the keys of a backbone."""
    path, pyramid, places = HEADS[head]
    cfg, chosen = shrunken(ROOT / "configs" / path), BACKBONES[backbone]
    maps = [chosen.maps[place] for place in places]
    opts = ["MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.BACKBONE.NAME", "build_fpn_backbone" if pyramid else chosen.builder]
    opts += ["MODEL.RESNETS.RES5_DILATION", 1]
    if pyramid:
        opts += ["MODEL.FPN.BOTTOM_UP", chosen.builder, "MODEL.FPN.IN_FEATURES", maps]
        opts += ["MODEL.FPN.TOP_LEVEL", "p6p7"] if head == "RetinaNet" else []
    elif cfg.MODEL.META_ARCHITECTURE in ("SemanticSegmentor", "ImageSizedSegmentor"):
        opts += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", maps, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4 << places[0]]
        if cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.IN_FEATURE:
            opts += ["MODEL.SEM_SEG_HEAD.AUXILIARY.IN_FEATURE", chosen.maps[2]]
            maps = [name for name in chosen.maps if name in {*maps, chosen.maps[2]}]
    if chosen.key:
        opts += [chosen.key, maps]
    cfg.merge_from_list(opts)
    return cfg


def take_a_step(cfg: CfgNode) -> None:
    """Trains a step, which reaches backbone and head, and evaluates.

    Raises:
        ValueError: A loss is not finite, nothing learns, or an output has another size than its picture.
    """
    model = build_model(cfg)
    batch = [sample(cfg), sample(cfg)]
    with EventStorage():
        losses = model(batch)
    if not losses or not all(torch.isfinite(loss) for loss in losses.values()):
        raise ValueError(f"The losses are {losses}.")
    sum(losses.values()).backward()
    reached = {"backbone" in name.split(".") for name, p in model.named_parameters() if p.grad is not None}
    if reached != {True, False}:
        raise ValueError("The backbone or the head has no gradients.")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad.clamp(-1, 1)
        outputs = model.eval()(batch)
    for output in outputs:
        sizes = [tuple(value.image_size) for value in output.values() if isinstance(value, Instances)]
        sizes += [tuple(output["sem_seg"].shape[1:])] if "sem_seg" in output else []
        if not sizes or any(size != (2 * SIZE[0], 2 * SIZE[1]) for size in sizes):
            raise ValueError(f"The outputs have the sizes {sizes}.")


def main(word: str = "") -> int:
    """Runs the pairs in whose names a word occurs and prints a line for each; returns how many fail."""
    failed = 0
    for backbone, head in pairs():
        if word.lower() not in f"{backbone} {head}".lower():
            continue
        torch.manual_seed(0)
        try:
            take_a_step(configuration(backbone, head))
            print(f"{backbone:12} {head:20} runs", flush=True)
        except Exception as error:
            failed += 1
            print(f"{backbone:12} {head:20} {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
            print(traceback.format_exc(limit=-2), file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:2]), 1))
