"""Boundary AP against pycocotools' evaluation with the overlap of the paper in the place of its own."""

import contextlib
import copy
import io
import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densekit.evaluation import COCOEvaluator
from densekit.metrics.boundary import boundary_pixels
from tests.evaluation.coco_scenes import EXACT, random_scene, register, run


class BoundaryEval(COCOeval):
    """Section 5.2 of the paper: the smaller of the IoU of the masks and that of their boundaries; crowds as ever."""

    def computeIoU(self, image_id, category_id):
        overlap = super().computeIoU(image_id, category_id)
        truth, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        if not truth or not found:
            return overlap
        found = [found[i] for i in np.argsort([-d["score"] for d in found], kind="mergesort")][
            : self.params.maxDets[-1]
        ]
        crowd = [annotation["iscrowd"] for annotation in truth]
        edges = mask_utils.iou([edge(d) for d in found], [edge(t) for t in truth], crowd)
        return np.where(crowd, overlap, np.minimum(overlap, edges))


def edge(annotation):
    mask = mask_utils.decode(annotation["segmentation"]).astype(bool)
    return mask_utils.encode(np.asfortranarray(mask & boundary_pixels(mask)).astype(np.uint8))


def expected(content, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        kept = ("image_id", "category_id", "score", "segmentation")
        evaluation = BoundaryEval(truth, truth.loadRes([{key: r[key] for key in kept} for r in results]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats * 100))


@pytest.mark.parametrize("seed", range(3))
def test_every_number_follows_the_paper(seed, tmp_path):
    content, detections = random_scene(seed)
    evaluator = COCOEvaluator(register(tmp_path, content), ["segm"], output_dir=str(tmp_path), boundary=True)
    scores = run(evaluator, content, detections)
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert list(scores) == ["boundary", "segm"]
    numbers = expected(content, results)
    assert {name: scores["boundary"][name] for name in numbers} == pytest.approx(numbers, **EXACT)
    assert 0 < scores["boundary"]["AP"] < scores["segm"]["AP"]


def test_only_masks_have_boundaries(tmp_path):
    content, detections = random_scene(0)
    scores = run(COCOEvaluator(register(tmp_path, content), boundary=True), content, detections, fields=())
    assert list(scores) == ["bbox"]
