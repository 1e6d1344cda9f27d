"""The evaluators of label maps and of panoptic maps across three real processes on gloo."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.utils import comm
from densekit.evaluation import COCOPanopticEvaluator, SemSegEvaluator
from densekit.files.panoptic_png import write_panoptic_png

IMAGES, SIZE = 7, (12, 16)


def true_map(k):
    """Two segments of class k % 3, parted at a place that depends on the image."""
    ids = np.full(SIZE, 2)
    ids[:, : 3 + k] = 1
    return ids


def write_truth(folder):
    annotations = []
    for k in range(IMAGES):
        write_panoptic_png(folder / f"{k}.png", true_map(k))
        Image.fromarray(true_map(k).astype(np.uint8)).save(folder / f"labels{k}.png")
        segments = [{"id": key, "category_id": 1 + (k + key) % 2, "iscrowd": 0} for key in (1, 2)]
        annotations.append({"image_id": k, "file_name": f"{k}.png", "segments_info": segments})
    images = [{"id": k, "file_name": f"{k}.jpg", "height": SIZE[0], "width": SIZE[1]} for k in range(IMAGES)]
    categories = [{"id": 1, "name": "car", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))


def evaluate(folder, image_ids, output):
    records = [
        {"file_name": f"{k}.jpg", "sem_seg_file_name": str(folder / f"labels{k}.png"), "height": 12, "width": 16}
        for k in range(IMAGES)
    ]
    DatasetCatalog.register("shared", lambda: records)
    MetadataCatalog.get("shared").set(
        panoptic_json=str(folder / "truth.json"), panoptic_root=str(folder), stuff_classes=["a", "b", "c"]
    )
    evaluators = [
        COCOPanopticEvaluator("shared", str(folder / output)),
        SemSegEvaluator("shared", str(folder / output), boundary=True),
    ]
    for k in image_ids:
        ids = np.roll(true_map(k), k % 3, axis=1)
        segments = [{"id": key, "category_id": 1 + (k + key) % 2} for key in (1, 2)]
        scores = torch.nn.functional.one_hot(torch.from_numpy(ids), 3).permute(2, 0, 1)
        for evaluator in evaluators:
            evaluator.process(
                [{"image_id": k, "file_name": f"{k}.jpg"}],
                [{"panoptic_seg": (torch.from_numpy(ids), segments), "sem_seg": scores}],
            )
    try:
        return [evaluator.evaluate() for evaluator in evaluators]
    finally:
        DatasetCatalog.remove("shared")
        MetadataCatalog.remove("shared")


def each(args):
    rank = comm.get_rank()
    # The last image goes to two, as from a sampler that pads.
    results = evaluate(args.folder, [[0, 3, 6], [1, 4, 6], [2, 5]][rank], "three")
    (args.folder / f"rank{rank}.json").write_text(json.dumps(results))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_three_processes_say_and_write_what_one_does(tmp_path, in_processes):
    write_truth(tmp_path)
    alone = evaluate(tmp_path, range(IMAGES), "one")
    assert 0 < alone[0]["panoptic_seg"]["PQ"] < 100 and 0 < alone[1]["sem_seg"]["mIoU"] < 100
    in_processes(each, 3, folder=tmp_path)
    together, *others = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(3))
    assert others == [[{}, {}], [{}, {}]]
    for found, expected in zip(together, alone):
        for task, numbers in expected.items():
            assert found[task] == pytest.approx(numbers, abs=0, rel=0, nan_ok=True)
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert len(files(tmp_path / "one")) == 2 * IMAGES + 3
    assert 0 < alone[1]["sem_seg"]["mBoundaryF"] < 100
