"""SemSegEvaluator: its numbers, its files, and what it refuses."""

import json
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.evaluation import SemSegEvaluator
from densekit.metrics.contours import contour_f, count_contours
from densekit.metrics.semantic_scores import boundary_iou, count_boundaries

NAMES = ["road", "tree", "sky", "never annotated"]
IDS = [7, 21, 300, 33]  # of the data set; one needs more than a byte
SIZE = (24, 30)


def make_maps(rng, count):
    """Label maps of blocks with a void part, and predictions that are partly wrong."""
    truth = [np.kron(rng.integers(0, 3, (4, 5)), np.ones((6, 6), int)) for _ in range(count)]
    predicted = [np.where(rng.random(SIZE) < 0.2, rng.integers(0, 4, SIZE), np.roll(t, 1, 0)) for t in truth]
    for t in truth:
        t[rng.random(SIZE) < 0.1] = 255
    return truth, predicted


def register(folder, truth, name="tiny", **metadata):
    records = []
    for k, labels in enumerate(truth):
        record = {"file_name": f"/images/{'ab'[k % 2]}/{k // 2}.jpg", "height": SIZE[0], "width": SIZE[1]}
        if labels is not None:
            record["sem_seg_file_name"] = str(folder / f"{k}.png")
            Image.fromarray(labels.astype(np.uint8)).save(folder / f"{k}.png")
        records.append(record)
    DatasetCatalog.register(name, lambda: records)
    ids = {key: k for k, key in enumerate(IDS)}
    defaults = {"stuff_classes": NAMES, "stuff_dataset_id_to_contiguous_id": ids, "ignore_label": 255}
    MetadataCatalog.get(name).set(**defaults | metadata)
    return name


def scores(labels, classes=4):
    """Scores of which the labels are the largest."""
    return torch.nn.functional.one_hot(torch.from_numpy(labels), classes).permute(2, 0, 1).float()


def run(evaluator, predicted):
    evaluator.reset()
    for record, labels in zip(DatasetCatalog.get("tiny"), predicted):
        evaluator.process([{"file_name": record["file_name"]}], [{"sem_seg": scores(labels)}])
    return evaluator.evaluate()


@pytest.fixture
def maps():
    return make_maps(np.random.default_rng(0), 6)


def test_numbers_are_those_of_the_definitions(maps, tmp_path):
    truth, predicted = maps
    results = run(SemSegEvaluator(register(tmp_path, truth)), predicted)["sem_seg"]
    t, p = (np.concatenate([m.ravel() for m in part]) for part in (truth, predicted))
    p, t = p[t != 255], t[t != 255]
    iou = [100 * ((t == c) & (p == c)).sum() / ((t == c) | (p == c)).sum() for c in range(3)]
    accuracy = [100 * (p[t == c] == c).mean() for c in range(3)]
    share = [(t == c).mean() for c in range(3)]
    assert results["mIoU"] == pytest.approx(np.mean(iou))
    assert results["fwIoU"] == pytest.approx(np.dot(iou, share))
    assert results["mACC"] == pytest.approx(np.mean(accuracy))
    assert results["pACC"] == pytest.approx(100 * (t == p).mean())
    for c, name in enumerate(NAMES[:3]):
        assert results[f"IoU-{name}"] == pytest.approx(iou[c]) and results[f"ACC-{name}"] == pytest.approx(accuracy[c])
    assert math.isnan(results["IoU-never annotated"])
    assert not any("oundary" in name for name in results)


def test_files_hold_the_label_ids_of_the_data_set(maps, tmp_path):
    truth, predicted = maps
    run(SemSegEvaluator(register(tmp_path, truth), str(tmp_path / "out")), predicted)
    entries = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    for k, labels in enumerate(predicted):
        name, png = f"/images/{'ab'[k % 2]}/{k // 2}.jpg", tmp_path / "out" / "sem_seg" / "ab"[k % 2] / f"{k // 2}.png"
        expected = np.array(IDS)[labels]
        assert np.array_equal(np.asarray(Image.open(png)), expected)
        drawn = np.zeros(SIZE, int)
        for entry in entries:
            if entry["file_name"] == name:
                drawn += mask_utils.decode(entry["segmentation"]).astype(int) * entry["category_id"]
        assert np.array_equal(drawn, expected)
    assert set(entries[0]) == {"file_name", "category_id", "segmentation"}


def test_images_that_differ_in_their_ending_keep_their_own_file(tmp_path):
    maps = [np.zeros(SIZE, int), np.ones(SIZE, int)]
    register(tmp_path, maps)
    for record, name in zip(DatasetCatalog.get("tiny"), ("/images/x.jpg", "/images/x.png")):
        record["file_name"] = name
    run(SemSegEvaluator("tiny", str(tmp_path / "out")), maps)
    for name, value in (("x.jpg.png", 7), ("x.png.png", 21)):
        assert (np.asarray(Image.open(tmp_path / "out" / "sem_seg" / name)) == value).all()


def test_boundaries(maps, tmp_path):
    truth, predicted = maps
    results = run(SemSegEvaluator(register(tmp_path, truth), boundary=True), predicted)["sem_seg"]
    total = sum(count_boundaries(p.astype(np.uint8), t.astype(np.uint8), 4, 255) for p, t in zip(predicted, truth))
    iou, mean = boundary_iou(total)
    assert results["mBoundaryIoU"] == pytest.approx(100 * mean)
    for c, name in enumerate(NAMES[:3]):
        assert results[f"BoundaryIoU-{name}"] == pytest.approx(100 * iou[c])
        assert results[f"min(IoU, B-Iou)-{name}"] == min(results[f"BoundaryIoU-{name}"], results[f"IoU-{name}"])
    assert math.isnan(results["min(IoU, B-Iou)-never annotated"])
    f1 = [contour_f(count_contours(p, t.astype(np.uint8), 4, 255)) for p, t in zip(predicted, truth)]
    for c, name in enumerate(NAMES[:3]):
        assert results[f"BoundaryF-{name}"] == pytest.approx(100 * np.nanmean(f1, axis=0)[c])
    assert results["mBoundaryF"] == pytest.approx(100 * np.nanmean(f1, axis=0)[:3].mean())
    assert math.isnan(results["BoundaryF-never annotated"])


def iou_of(truth, predicted, c):
    counted = truth != 255
    both, either = ((truth == c) & (predicted == c) & counted).sum(), ((truth == c) | (predicted == c)) & counted
    return 100 * both / either.sum()


@pytest.mark.parametrize("boundary", [True, False])
def test_the_file_of_scores_has_support_confusion_and_images(maps, tmp_path, boundary):
    truth, predicted = maps
    truth[2][truth[2] == 1] = 0  # an image without this class
    truth[4][:] = 255  # one that nothing is known of
    evaluator = SemSegEvaluator(register(tmp_path, truth), str(tmp_path / "out"), boundary=boundary)
    results = run(evaluator, predicted)["sem_seg"]
    content = json.loads((tmp_path / "out" / "sem_seg_scores.json").read_text())
    for c, (name, entry) in enumerate(zip(NAMES, content["classes"], strict=True)):
        assert (entry["name"], entry["id"]) == (name, IDS[c])
        assert entry["pixels"] == sum((t == c).sum() for t in truth)
        assert entry["images"] == sum((t == c).any() for t in truth)
        for kind in ("IoU", "ACC", *(("BoundaryIoU", "BoundaryF") if boundary else ())):
            assert entry[kind] == pytest.approx(results[f"{kind}-{name}"]) if c < 3 else entry[kind] is None
    assert content["classes"][1]["images"] == 4 and ("BoundaryF" in content["classes"][0]) == boundary
    expected = np.zeros((4, 5), int)
    for t, p in zip(truth, predicted):
        for a, b in zip(t.ravel().tolist(), p.ravel().tolist()):
            if a != 255:
                expected[a, b] += 1
    assert content["confusion"] == expected.tolist()
    ranked = [entry["mIoU"] for entry in content["images"]]
    assert ranked[:-1] == sorted(ranked[:-1]) and ranked[-1] is None and len(ranked) == 6
    by_name = {entry["file_name"]: entry for entry in content["images"]}
    for record, t, p in zip(DatasetCatalog.get("tiny"), truth, predicted):
        entry = by_name[record["file_name"]]
        present = [c for c in range(4) if (t == c).any()]
        if present:
            assert entry["mIoU"] == pytest.approx(np.mean([iou_of(t, p, c) for c in present]))
            assert entry["pACC"] == pytest.approx(100 * (t == p)[t != 255].mean())
        assert ("BoundaryF" in entry) == boundary


def test_values_in_the_files_may_stand_for_other_classes(maps, tmp_path):
    truth, predicted = maps
    plain = run(SemSegEvaluator(register(tmp_path, truth)), predicted)
    DatasetCatalog.remove("tiny")
    register(tmp_path, [np.where(t == 255, 9, t + 10) for t in truth])
    for record in DatasetCatalog.get("tiny"):
        record["sem_seg_values"] = {9: 255, 10: 0, 11: 1, 12: 2, 13: 3}
    again = run(SemSegEvaluator("tiny"), predicted)
    assert again["sem_seg"] == pytest.approx(plain["sem_seg"], nan_ok=True)


def test_missing_images_are_named(maps, tmp_path):
    evaluator = SemSegEvaluator(register(tmp_path, maps[0]))
    with pytest.raises(
        ValueError, match=r"2 images of 'tiny' have no prediction: '/images/a/2.jpg', '/images/b/2.jpg'"
    ):
        run(evaluator, maps[1][:4])


def test_repeated_images_count_once(maps, tmp_path):
    evaluator = SemSegEvaluator(register(tmp_path, maps[0]), str(tmp_path / "out"))
    once = run(evaluator, maps[1])
    entries = (tmp_path / "out" / "sem_seg_predictions.json").read_text()
    evaluator.process([{"file_name": "/images/a/0.jpg"}], [{"sem_seg": scores(maps[1][0])}])
    assert evaluator.evaluate()["sem_seg"] == pytest.approx(once["sem_seg"], nan_ok=True)
    assert (tmp_path / "out" / "sem_seg_predictions.json").read_text() == entries


def test_a_test_set_without_labels_is_predicted_on(maps, tmp_path, caplog):
    evaluator = SemSegEvaluator(register(tmp_path, [None] * 6), str(tmp_path / "out"))
    assert run(evaluator, maps[1]) == {}
    assert "no label maps" in caplog.text
    assert len(list((tmp_path / "out" / "sem_seg").rglob("*.png"))) == 6


def test_a_model_without_semantic_output_is_not_judged(maps, tmp_path, caplog):
    evaluator = SemSegEvaluator(register(tmp_path, maps[0]))
    evaluator.process([{"file_name": "/images/a/0.jpg"}], [{"instances": None}])
    assert evaluator.evaluate() == {}
    assert "No output with 'sem_seg'" in caplog.text


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.full(SIZE, 5), 6, r"a/0.jpg of 'tiny': The predicted map holds the values \[5\]"),
        (np.zeros((5, 5), int), 4, r"a/0.jpg of 'tiny': .*\(24, 30\).*\(5, 5\)"),
    ],
)
def test_predictions_that_contradict(maps, tmp_path, labels, classes, message):
    evaluator = SemSegEvaluator(register(tmp_path, maps[0]))
    with pytest.raises(ValueError, match=message):
        evaluator.process([{"file_name": "/images/a/0.jpg"}], [{"sem_seg": scores(labels, classes)}])
    with pytest.raises(ValueError, match=r"elsewhere\.jpg is not one of 'tiny'"):
        evaluator.process([{"file_name": "elsewhere.jpg"}], [{"sem_seg": scores(labels, classes)}])


def test_too_many_classes_of_a_model_are_found_without_labels_too(tmp_path):
    evaluator = SemSegEvaluator(register(tmp_path, [None]), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"Class 5 .*NUM_CLASSES must be 4"):
        evaluator.process([{"file_name": "/images/a/0.jpg"}], [{"sem_seg": scores(np.full(SIZE, 5), 6)}])


def test_data_sets_that_contradict(maps, tmp_path):
    name = register(tmp_path, [maps[0][0], None])
    with pytest.raises(ValueError, match=r"b/0.jpg of 'tiny' names no label map"):
        SemSegEvaluator(name)
    register(tmp_path, maps[0], name="unnamed", stuff_classes=[])
    with pytest.raises(ValueError, match="'unnamed' has no class names"):
        SemSegEvaluator("unnamed")
    register(tmp_path, maps[0], name="partial", stuff_dataset_id_to_contiguous_id={7: 0, 300: 2})
    with pytest.raises(ValueError, match=r"'partial' gives no id for the classes \[1, 3\]"):
        SemSegEvaluator("partial")


def test_things_among_the_stuff_classes_keep_the_ids_of_things(tmp_path):
    """Detectron2's joint panoptic data sets list the things first among the stuff classes, without their ids."""
    labels = np.full(SIZE, 1)
    name = register(
        tmp_path,
        [labels],
        thing_dataset_id_to_contiguous_id={24: 0, 26: 1},
        stuff_dataset_id_to_contiguous_id={7: 2, 21: 3},
    )
    run(SemSegEvaluator(name, str(tmp_path / "out")), [labels])
    assert (np.asarray(Image.open(tmp_path / "out" / "sem_seg" / "0.png")) == 26).all()


def test_a_class_beyond_a_byte_is_not_taken_for_another(tmp_path):
    names = [f"class {k}" for k in range(300)]
    register(tmp_path, [None], stuff_classes=names, stuff_dataset_id_to_contiguous_id={k: k for k in range(300)})
    evaluator = SemSegEvaluator("tiny", output_dir=tmp_path / "out")
    evaluator.process([{"file_name": "/images/a/0.jpg"}], [{"sem_seg": scores(np.full(SIZE, 299), 300)}])
    evaluator.evaluate()
    entries = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    assert [entry["category_id"] for entry in entries] == [299]
