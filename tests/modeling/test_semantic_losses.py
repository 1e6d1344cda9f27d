"""``MODEL.SEM_SEG_HEAD.LOSS`` on every semantic head."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.d2.utils.events import EventStorage
from densekit.data.pixel_counts import class_weights, pixel_counts
from densekit.engine.setup import _weigh_classes
from densekit.modeling.semantic_losses import criterion_from_config
from tests.contract.shrinking import shrunken
from tests.contract.test_configs import sample

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HEADS = {
    "SemanticFPNHead": "Cityscapes/semantic_R_50_FPN.yaml",
    "UPerHead": "upernet/upernet_R_50_cityscapes.yaml",
    "DeepLabV3PlusSemanticHead": "pointrend/pointrend_semantic_R_50_deeplab_cityscapes.yaml",
    "PointRendSemanticHead": "pointrend/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml",
    "HRNetV2Head": "hrnet/hrnet_w18_small_v1_camvid.yaml",
    "OCRHead": "ocr/hrnet_ocr_w18_small_v1_camvid.yaml",
}


def losses_of(cfg, batch):
    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return {name: loss.item() for name, loss in losses.items()}, grads


def configured(name):
    cfg = shrunken(CONFIGS / HEADS[name])
    if name == "DeepLabV3PlusSemanticHead":  # alone, without points
        cfg.MODEL.SEM_SEG_HEAD.NAME = name
    cfg.MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS = []
    return cfg


@pytest.mark.parametrize("name", HEADS)
def test_every_head_reads_the_keys(name):
    cfg = configured(name)
    batch = [sample(cfg), sample(cfg)]
    plain, _ = losses_of(cfg, batch)
    found = {}
    for term in ("ohem", "lovasz", "dice"):
        cfg.MODEL.SEM_SEG_HEAD.LOSS.NAMES = [term]
        cfg.MODEL.SEM_SEG_HEAD.LOSS.OHEM_MIN_KEPT = 10
        cfg.MODEL.SEM_SEG_HEAD.LOSS.OHEM_THRESHOLD = 0.01
        found[term], grads = losses_of(cfg, batch)
        assert found[term].keys() == plain.keys()
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert found[term]["loss_sem_seg"] != pytest.approx(plain["loss_sem_seg"], rel=1e-3)
    assert found["ohem"]["loss_sem_seg"] > plain["loss_sem_seg"]  # the mean of the worst


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("term", ["cross_entropy", "lovasz"])
def test_a_batch_without_labels_is_no_loss(name, term):
    cfg = configured(name)
    cfg.MODEL.SEM_SEG_HEAD.LOSS.NAMES = [term]
    batch = [sample(cfg), sample(cfg)]
    for item in batch:
        item["sem_seg"].fill_(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    losses, grads = losses_of(cfg, batch)
    assert set(losses.values()) == {0.0}
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_the_host_s_head_is_taken_for_the_one_that_reads_the_keys():
    cfg = load_config(str(CONFIGS / "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"))
    assert cfg.MODEL.SEM_SEG_HEAD.NAME == "SemanticFPNHead"
    assert load_config("").MODEL.SEM_SEG_HEAD.NAME == "SemSegFPNHead"  # no system with such a head


@pytest.mark.parametrize(
    "opts, match",
    [
        (("NAMES", "['focal']"), "focal"),
        (("NAMES", "['dice', 'lovasz']"), "one weight"),
        (("CLASS_WEIGHTS", "[1.0, 2.0]"), "NUM_CLASSES"),
        (("CLASS_WEIGHTS", "['often']"), "frequency"),
    ],
)
def test_wrong_keys_are_named(opts, match):
    cfg = load_config("", [f"MODEL.SEM_SEG_HEAD.LOSS.{opts[0]}", opts[1]])
    with pytest.raises(ValueError, match=match):
        criterion_from_config(cfg)


def label_map(path, values):
    import cv2

    cv2.imwrite(str(path), np.array(values, dtype=np.uint8))
    return {"sem_seg_file_name": str(path), "height": len(values), "width": len(values[0])}


def test_weights_by_frequency(tmp_path):
    records = [label_map(tmp_path / "a.png", [[0, 0], [0, 1]]), label_map(tmp_path / "b.png", [[0, 0], [255, 1]])]
    counts = pixel_counts(records, 3)
    assert counts.tolist() == [5, 2, 0]
    raw = 1 / np.log(1.02 + np.array([5, 2]) / 7)
    expected = [*(raw / raw.mean()), 1.0]
    assert class_weights(counts) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="no label maps"):
        pixel_counts([{}], 3)


def test_a_run_puts_numbers_in_their_place(tmp_path):
    from densekit.d2.data import DatasetCatalog

    records = [label_map(tmp_path / "a.png", [[0, 0], [0, 1]])]
    DatasetCatalog.register("weighed_train", lambda: records)
    keys = ["MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS", "['frequency']", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2"]
    cfg = load_config("", [*keys, "DATASETS.TRAIN", "('weighed_train',)"])
    notes = _weigh_classes(cfg, Namespace(eval_only=False))
    weights = cfg.MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS
    assert weights == class_weights(np.array([3, 1])) and str(weights) in notes[0]
    assert criterion_from_config(cfg).class_weights.tolist() == pytest.approx(weights)
