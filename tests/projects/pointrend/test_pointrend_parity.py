"""PointRend against Detectron2's bundled project: config files, parameter names, losses and masks, registrations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densekit.config import load_config
from densekit.d2 import layers as own_layers
from densekit.d2 import structures as own_structures
from densekit.d2.modeling import build_model
from densekit.d2.modeling.meta_arch.semantic_seg import build_sem_seg_head
from densekit.d2.modeling.roi_heads import build_mask_head
from densekit.d2.utils.events import EventStorage
from tests.tolerances import PARITY

detectron2 = pytest.importorskip("detectron2")
from detectron2 import layers as their_layers  # noqa: E402
from detectron2 import structures as their_structures  # noqa: E402
from detectron2.config import get_cfg as get_their_cfg  # noqa: E402
from detectron2.modeling import build_model as build_their_model  # noqa: E402
from detectron2.modeling import build_sem_seg_head as build_their_sem_seg_head  # noqa: E402
from detectron2.modeling.roi_heads import build_mask_head as build_their_mask_head  # noqa: E402
from detectron2.utils.events import EventStorage as TheirStorage  # noqa: E402

point_rend = pytest.importorskip("detectron2.projects.point_rend")

ROOT = Path(__file__).resolve().parents[3]
FILES = Path(detectron2.__file__).resolve().parents[1] / "projects" / "PointRend" / "configs"
YAMLS = sorted(FILES.rglob("pointrend_*.yaml")) + sorted(FILES.rglob("implicit_*.yaml"))
needs_files = pytest.mark.skipif(not YAMLS, reason="Detectron2 is installed without its projects' configs")
RENAMED = ("MODEL.ROI_MASK_HEAD.NAME", "MODEL.SEM_SEG_HEAD.NAME")
INSTANCE = "InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco.yaml"
IMPLICIT = "InstanceSegmentation/implicit_pointrend_R_50_FPN_1x_coco.yaml"
SEMANTIC = "SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml"


def their_cfg(path):
    cfg = get_their_cfg()
    point_rend.add_pointrend_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "meta"
    return cfg


def own_cfg(path):
    cfg = load_config(str(path))
    cfg.MODEL.DEVICE = "meta"
    return cfg


def flat(node, prefix=""):
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@needs_files
@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_their_file_gives_their_model(path):
    theirs, own = their_cfg(path), own_cfg(path)
    wanted, got = flat(theirs), flat(own)
    differing = {key for key, value in wanted.items() if key in got and got[key] != value}
    assert differing <= set(RENAMED)
    assert {key for key in wanted if key not in got and "POINT" in key} == set()
    assert shapes(build_model(own)) == shapes(build_their_model(theirs))


@needs_files
@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_own_file_of_that_name_says_the_same(path):
    own, theirs = flat(own_cfg(ROOT / "configs/pointrend" / path.name)), flat(own_cfg(path))
    theirs.pop("DATALOADER.FILTER_EMPTY_ANNOTATIONS")  # about instances, and of no effect on label maps
    theirs.pop("SOLVER.REFERENCE_BATCH_SIZE")  # theirs does not say it
    assert {key: (own[key], value) for key, value in theirs.items() if own[key] != value} == {}


def small(cfg, classes=4):
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 8, 16
    cfg.MODEL.POINT_HEAD.FC_DIM, cfg.MODEL.POINT_HEAD.TRAIN_NUM_POINTS = 12, 25
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM, cfg.MODEL.SEM_SEG_HEAD.NORM = 8, ""
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
    return cfg


def randomise(module):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=max(parameter.shape[-1], 8) ** -0.5, generator=generator)


def instances_of(structures, training, per_image, size, classes):
    torch.manual_seed(5)
    out = []
    for count in per_image:
        x = structures.Instances(size)
        corner = torch.rand(count, 2) * torch.tensor([size[1] * 0.6, size[0] * 0.6])
        extent = torch.rand(count, 2) * torch.tensor([size[1] * 0.4, size[0] * 0.4]) + 3
        boxes = structures.Boxes(torch.cat([corner, corner + extent], dim=1))
        if training:
            x.proposal_boxes, x.gt_classes = boxes, torch.randint(classes, (count,))
            x.gt_masks = structures.BitMasks(torch.rand(count, *size) > 0.5)
        else:
            x.pred_boxes, x.pred_classes = boxes, torch.randint(classes, (count,))
        out.append(x)
    return out


@needs_files
@pytest.mark.parametrize("name", [INSTANCE, IMPLICIT])
@pytest.mark.parametrize(("height", "width"), [(17, 23), (40, 33)])
@pytest.mark.parametrize("agnostic", [False, True])
def test_mask_heads_agree(name, height, width, agnostic):
    own, theirs = small(own_cfg(FILES / name)), small(their_cfg(FILES / name))
    own.MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK = theirs.MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK = agnostic
    head = build_mask_head(own, {"p2": own_layers.ShapeSpec(channels=16, stride=4)})
    other = build_their_mask_head(theirs, {"p2": their_layers.ShapeSpec(channels=16, stride=4)})
    randomise(head)
    other.load_state_dict(head.state_dict())
    features = {"p2": torch.randn(3, 16, height, width)}
    size = (height * 4, width * 4)

    torch.manual_seed(1)
    with EventStorage():
        losses = head(features, instances_of(own_structures, True, (3, 0, 2), size, 4))
    torch.manual_seed(1)
    with TheirStorage():
        wanted = other(features, instances_of(their_structures, True, (3, 0, 2), size, 4))
    torch.manual_seed(1)
    assert set(losses) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(losses[key], value, **PARITY)

    with torch.no_grad():
        masks = head.eval()(features, instances_of(own_structures, False, (3, 0, 2), size, 4))
        wanted = other.eval()(features, instances_of(their_structures, False, (3, 0, 2), size, 4))
    for got, want in zip(masks, wanted):
        assert got.pred_masks.shape == want.pred_masks.shape
        if len(got):
            assert (got.pred_masks - want.pred_masks).abs().le(1e-4).float().mean() > 0.999


@needs_files
def test_semantic_heads_agree():
    own, theirs = small(own_cfg(FILES / SEMANTIC)), small(their_cfg(FILES / SEMANTIC))
    own.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS = theirs.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS = 100
    strides = {f"p{k}": 2**k for k in range(2, 6)}
    head = build_sem_seg_head(own, {k: own_layers.ShapeSpec(channels=16, stride=s) for k, s in strides.items()})
    other = build_their_sem_seg_head(
        theirs, {k: their_layers.ShapeSpec(channels=16, stride=s) for k, s in strides.items()}
    )
    randomise(head)
    other.load_state_dict(head.state_dict())
    features = {k: torch.randn(2, 16, 96 // s, 160 // s) for k, s in strides.items()}
    labels = torch.randint(4, (2, 96, 160))
    labels[:, :20] = 255
    torch.manual_seed(1)
    _, losses = head.train()(features, labels)
    torch.manual_seed(1)
    _, wanted = other.train()(features, labels)
    assert set(losses) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(losses[key], value, **PARITY)
    with torch.no_grad():
        got, want = head.eval()(features)[0], other.eval()(features)[0]
    assert got.shape == want.shape == (2, 4, 96, 160)
    assert (got - want).abs().le(1e-4).float().mean() > 0.999


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("host", ["builtin", "detectron2"])
def test_both_can_be_imported_in_any_order(first, host):
    lines = {
        "ours": "from densekit.config import load_config; import densekit.projects.pointrend",
        "theirs": "import detectron2.projects.point_rend",
    }
    order = ["ours", "theirs"] if first == "ours" else ["theirs", "ours"]
    config = ROOT / "configs/pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml"
    code = "\n".join(
        [
            *(lines[name] for name in order),
            "from densekit.d2.modeling import build_model",
            "opts = ['MODEL.DEVICE', 'meta', 'MODEL.ROI_MASK_HEAD.NAME', 'PointRendMaskHead']",
            f"cfg = load_config({str(config)!r}, opts)",
            "print(type(build_model(cfg).roi_heads.mask_head).__module__)",
        ]
    )
    env = {**os.environ, "DENSEKIT_HOST": host}
    run = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "densekit.projects.pointrend.mask_head"
