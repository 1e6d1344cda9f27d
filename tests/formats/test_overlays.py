import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.structures import Boxes, BoxMode, Instances
from densekit.evaluation.predictions import instances_to_coco_json
from densekit.formats.drawing import results_to_instances
from densekit.formats.overlays import draw_overlays, main

SIZE = (60, 100)
BOX = [20.0, 10.0, 60.0, 50.0]


def detection() -> Instances:
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor([BOX, [70.0, 20.0, 90.0, 40.0]]))
    found.scores = torch.tensor([0.9, 0.25])
    found.pred_classes = torch.tensor([1, 0])
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 10:50, 20:60] = True
    found.pred_masks = masks
    found.pred_keypoints = torch.tensor([[[30.5, 20.5, 0.9]], [[80.25, 30.0, 0.1]]])
    return found


@pytest.fixture
def scene(tmp_path):
    """Six grey images, an object annotated in each, and predictions for the first and the last."""
    records, results = [], []
    for k in range(6):
        path = tmp_path / f"image_{k}.png"
        Image.fromarray(np.full((*SIZE, 3), 120, np.uint8)).save(path)
        annotation = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        record = {"file_name": str(path), "image_id": 100 + k, "height": SIZE[0], "width": SIZE[1]}
        records.append({**record, "annotations": [annotation]})
        if k in (0, 5):
            results += [
                {**r, "category_id": 7 + r["category_id"]} for r in instances_to_coco_json(detection(), 100 + k)
            ]
    DatasetCatalog.register("grey", lambda: records)
    MetadataCatalog.get("grey").set(
        thing_classes=["cup", "spoon"], thing_dataset_id_to_contiguous_id={7: 0, 8: 1}, keypoint_names=["handle"],
        keypoint_connection_rules=[], keypoint_flip_map=[],
    )  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    return path


def changed(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - 120).max(axis=2) > 25


def test_predictions_are_drawn_where_they_are(scene, tmp_path):
    paths = draw_overlays(scene, "grey", tmp_path / "out", count=3)
    assert [path.name for path in paths] == ["00000_image_0.png", "00002_image_2.png", "00005_image_5.png"]
    assert sorted((tmp_path / "out").iterdir()) == paths
    found, empty, _ = (changed(np.asarray(Image.open(path))) for path in paths)
    height, width = found.shape
    scale = width / SIZE[1]
    assert width >= 1000 and height == round(SIZE[0] * scale)
    assert not empty.any()
    x0, y0, x1, y1 = (round(value * scale) for value in BOX)
    assert found[y0 + 5 : y1 - 5, x0 + 5 : x1 - 5].mean() > 0.9  # the mask
    assert not found[:, int(66 * scale) :].any()  # the second detection is below the threshold


def test_threshold_and_ground_truth(scene, tmp_path):
    both = changed(np.asarray(Image.open(draw_overlays(scene, "grey", tmp_path, count=1, score_threshold=0.2)[0])))
    assert both[:, int(both.shape[1] * 0.69) :].any()
    [path] = draw_overlays(scene, "grey", tmp_path, count=1, ground_truth=True)
    pair = changed(np.asarray(Image.open(path)))
    assert pair.shape[1] > 2 * both.shape[1]
    assert pair[:, both.shape[1] + 20 :].any()


def test_images_with_nothing_to_show_are_passed_over(scene, tmp_path):
    for record in DatasetCatalog.get("grey")[1:]:
        record["annotations"] = []
    assert [path.stem[:5] for path in draw_overlays(scene, "grey", tmp_path, count=4)] == ["00000", "00005"]


def test_results_become_instances_and_return_unchanged(scene):
    results = json.loads(scene.read_text())[:2]
    record = {"height": SIZE[0], "width": SIZE[1], "file_name": "x"}
    instances = results_to_instances(results, record, MetadataCatalog.get("grey"))
    for name, value in detection().get_fields().items():
        after = getattr(instances, name)
        assert torch.equal(getattr(after, "tensor", after), getattr(value, "tensor", value)), name
    empty = results_to_instances([], record, MetadataCatalog.get("grey"))
    assert len(empty) == 0 and empty.pred_boxes.tensor.shape == (0, 4)


def test_more_pictures_than_images_and_nothing_above_the_threshold(scene, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(draw_overlays(scene, "grey", tmp_path / "out", count=50, score_threshold=0.95)) == 6
    assert "the best score of all is 0.900" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<html>", r"results\.json is not JSON"),
        ("{}", "holds a dict, not a list"),
        ('[{"image_id": 100, "score": 1, "category_id": 7}]', "entry 0 has no bbox"),
        ('[{"image_id": 5, "category_id": 7, "score": 1, "bbox": [0, 0, 9, 9]}]', "'grey' does not have, one is 5"),
        ('[{"image_id": 100, "category_id": 3, "score": 1, "bbox": [0, 0, 9, 9]}]', r"category ids \[3\].*\[7, 8\]"),
    ],
)
def test_wrong_results_are_refused(scene, tmp_path, content, words):
    scene.write_text(content)
    with pytest.raises(ValueError, match=words):
        draw_overlays(scene, "grey", tmp_path / "out")


def test_command_line(scene, tmp_path, capsys):
    options = ["--predictions", str(scene), "--output", str(tmp_path / "out"), "--count", "2"]
    main([*options, "--dataset", "grey"])
    assert len(list((tmp_path / "out").iterdir())) == 2
    for wrong in (["--dataset", "gray"], ["--dataset", "grey", "--count", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main([*options, *wrong])
        assert str(stopped.value.code).startswith("error: ")
    with pytest.raises(SystemExit) as stopped:
        main(["--predictions", str(tmp_path / "missing.json"), "--dataset", "grey", "--output", str(tmp_path)])
    assert "missing.json" in str(stopped.value.code)
