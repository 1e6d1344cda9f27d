"""Our SemSegEvaluator and Detectron2's, shown the same scores, report the same numbers and write the same file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog as UpstreamDatasets
from detectron2.data import MetadataCatalog as UpstreamMetadata
from detectron2.evaluation import SemSegEvaluator as UpstreamEvaluator

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.evaluation import SemSegEvaluator

SIZE = (30, 40)
NAMES = ["road", "tree", "sky", "fence", "never annotated"]


@pytest.fixture
def scores(tmp_path):
    """Registers a data set with both hosts and returns what a model says about each image."""
    rng = np.random.default_rng(0)
    records, outputs = [], {}
    for k in range(5):
        truth = np.kron(rng.integers(0, 4, (5, 8)), np.ones((6, 5), int)).astype(np.uint8)
        score = torch.from_numpy(rng.normal(size=(5, *SIZE))).float()
        score.scatter_add_(0, torch.from_numpy(truth).long()[None], torch.full((1, *SIZE), 1.5))
        truth[rng.random(SIZE) < 0.1] = 255
        Image.fromarray(truth).save(tmp_path / f"{k}.png")
        records.append({"file_name": f"/images/{k}.jpg", "sem_seg_file_name": str(tmp_path / f"{k}.png")})
        records[-1] |= {"height": SIZE[0], "width": SIZE[1]}
        outputs[records[-1]["file_name"]] = score
    ids = {7: 0, 21: 1, 23: 2, 13: 3, 40: 4}
    metadata = {"stuff_classes": NAMES, "stuff_dataset_id_to_contiguous_id": ids, "ignore_label": 255}
    catalogs = {(id(d), id(m)): (d, m) for d, m in (
        (DatasetCatalog, MetadataCatalog), (UpstreamDatasets, UpstreamMetadata))}  # fmt: skip
    for datasets, known in catalogs.values():
        datasets.register("labels", lambda: records)
        known.get("labels").set(**metadata)
    yield outputs
    for datasets, known in catalogs.values():
        datasets.remove("labels")
        known.remove("labels")


def test_same_numbers_and_the_same_file(scores, tmp_path):
    results = []
    for kind, folder in ((UpstreamEvaluator, "theirs"), (SemSegEvaluator, "ours")):
        evaluator = kind("labels", output_dir=str(tmp_path / folder))
        evaluator.reset()
        for name, score in scores.items():
            evaluator.process([{"file_name": name}], [{"sem_seg": score}])
        results.append(evaluator.evaluate()["sem_seg"])
    theirs, ours = results
    theirs = {name: value for name, value in theirs.items() if "oundary" not in name and "B-Iou" not in name}
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)
    assert 20 < ours["mIoU"] < 90 and np.isnan(ours["IoU-never annotated"])
    written = [json.loads((tmp_path / part / "sem_seg_predictions.json").read_text()) for part in ("theirs", "ours")]
    assert written[0] == written[1]
