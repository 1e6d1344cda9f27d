import json
import math
import pickle

import numpy as np
import pytest
import torch

from densekit.d2.data import MetadataCatalog
from densekit.d2.structures import Boxes, Instances
from densekit.evaluation import COCOEvaluator
from densekit.evaluation.proposals import _greedy_cover

NAMES = [f"AR{area}@{limit}" for limit in (100, 1000) for area in ("", "s", "m", "l")]


def register(tmp_path, boxes_per_image, crowds=()) -> str:
    annotations = []
    for image_id, boxes in enumerate(boxes_per_image):
        for x0, y0, x1, y1 in boxes:
            number = len(annotations) + 1
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(number in crowds)}
            annotations.append({"id": number, "image_id": image_id, "category_id": 1, **box})
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 400, "width": 400} for k in range(len(boxes_per_image))]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    MetadataCatalog.get("proposed").set(json_file=str(path), thing_classes=["thing"])
    return "proposed"


def show(evaluator, proposals_per_image):
    for image_id, boxes in enumerate(proposals_per_image):
        proposals = Instances((400, 400))
        proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        proposals.objectness_logits = torch.arange(len(boxes), 0, -1).float()
        evaluator.process([{"image_id": image_id}], [{"proposals": proposals}])
    return evaluator.evaluate()


def test_known_recall_by_area(tmp_path):
    """A small object covered exactly, a medium one to 0.6 (three of ten thresholds), a large one not at all."""
    objects = [[[0, 0, 20, 20], [100, 100, 150, 150]], [[0, 0, 300, 300]]]
    proposals = [[[0, 0, 20, 20], [100, 100, 150, 131]], [[380, 380, 390, 390]]]
    results = show(COCOEvaluator(register(tmp_path, objects)), proposals)
    assert list(results) == ["box_proposals"] and list(results["box_proposals"]) == NAMES
    for limit in (100, 1000):
        recall = {area: results["box_proposals"][f"AR{area}@{limit}"] for area in ("", "s", "m", "l")}
        assert recall == pytest.approx({"": (10 + 3) / 30 * 100, "s": 100, "m": 30, "l": 0})


def test_limit_takes_the_best_scored(tmp_path):
    far = [[350, 350, 351, 351]] * 150
    recall = show(COCOEvaluator(register(tmp_path, [[[0, 0, 20, 20]]])), [[*far, [0, 0, 20, 20]]])["box_proposals"]
    assert recall["AR@100"] == 0 and recall["AR@1000"] == pytest.approx(100)


def test_crowds_are_not_asked_for_and_absent_areas_are_undefined(tmp_path):
    name = register(tmp_path, [[[0, 0, 20, 20], [0, 0, 300, 300]]], crowds={2})
    recall = show(COCOEvaluator(name), [[[0, 0, 20, 20]]])["box_proposals"]
    assert recall["AR@100"] == pytest.approx(100) and math.isnan(recall["ARl@100"])


def test_one_proposal_covers_one_object():
    """Against trying all assignments step by step."""
    rng = np.random.default_rng(0)
    for proposals, objects in ((5, 3), (3, 5), (4, 4), (1, 1), (0, 2), (2, 0)):
        iou = rng.random((proposals, objects)).astype(np.float32)
        free, expected = {(p, g): iou[p, g] for p in range(proposals) for g in range(objects)}, []
        while free:
            p, g = max(free, key=free.get)
            expected.append(free[p, g])
            free = {pair: value for pair, value in free.items() if pair[0] != p and pair[1] != g}
        assert sorted(_greedy_cover(iou)) == pytest.approx(sorted(expected + [0.0] * (objects - len(expected))))


def test_file_feeds_fast_rcnn(tmp_path):
    evaluator = COCOEvaluator(register(tmp_path, [[[0, 0, 20, 20]], []]), output_dir=str(tmp_path / "out"))
    show(evaluator, [[[0, 0, 20, 20], [1, 2, 3, 4]], []])
    content = pickle.loads((tmp_path / "out" / "box_proposals.pkl").read_bytes())
    assert content["ids"] == [0, 1] and content["bbox_mode"] == 0
    assert [boxes.tolist() for boxes in content["boxes"]] == [[[0, 0, 20, 20], [1, 2, 3, 4]], []]
    assert [logits.tolist() for logits in content["objectness_logits"]] == [[2, 1], []]


def test_image_without_proposals_is_reported(tmp_path, caplog):
    name = register(tmp_path, [[[0, 0, 20, 20]], [[0, 0, 20, 20]]])
    recall = show(COCOEvaluator(name), [[[0, 0, 20, 20]], []])["box_proposals"]
    assert recall["AR@100"] == pytest.approx(100) and "1 images with objects have no proposals" in caplog.text
