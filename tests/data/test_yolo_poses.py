"""YOLO lines with keypoints, told from polygons; Ultralytics' data.yaml."""

import numpy as np
import pytest
import yaml

from densekit.data.inspect import Options, inspect_dataset
from densekit.data.own.catalog import read_catalog
from tests.data.own_forms import CLASSES, OBJECTS, SIZE, load, write_yolo

W, H = SIZE


def write_poses(folder, dims, flag=2):
    """Two points of each object: its upper corners."""
    write_yolo(folder)
    for name, objects in OBJECTS.items():
        lines = []
        for label, (x0, y0, x1, y1) in objects:
            box = [(x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H]
            points = [[x0 / W, y0 / H, flag][:dims], [x1 / W, y0 / H, flag][:dims]]
            numbers = [*box, *points[0], *points[1]]
            lines.append(" ".join([str(CLASSES.index(label)), *(f"{value:.8f}" for value in numbers)]))
        if lines:
            (folder / "labels" / f"{name}.txt").write_text("\r\n".join(lines) + "\r\n")
    return {"form": "yolo", "images": "images", "classes": "data.yaml"}


@pytest.mark.parametrize("shape", [None, "entry", "file"])
@pytest.mark.parametrize(("dims", "flag"), [(2, 2), (3, 1), (3, 2)])
def test_poses_are_boxes_with_keypoints(folder, dims, flag, shape):
    entry = write_poses(folder, dims, flag)
    if shape == "entry":
        entry["kpt_shape"] = [2, dims]
    if shape == "file":
        content = yaml.safe_load((folder / "data.yaml").read_text())
        (folder / "data.yaml").write_text(yaml.safe_dump({**content, "kpt_shape": [2, dims]}))
    records, metadata = load(folder, **entry)
    assert len(metadata.keypoint_names) == 2
    for record in records:
        for annotation, (_, (x0, y0, x1, y1)) in zip(record["annotations"], OBJECTS[record["image_id"]]):
            np.testing.assert_allclose(annotation["bbox"], [x0, y0, x1, y1], atol=1e-4)
            points = np.reshape(annotation["keypoints"], (-1, 3))
            np.testing.assert_allclose(points[:, 0], [x0, x1], atol=1e-4)
            assert "segmentation" not in annotation


def test_check_knows_the_points_of_poses(folder):
    load(folder, **write_poses(folder, 3))
    findings = inspect_dataset("mine", Options()).findings
    assert not any(kind.name.startswith("keypoint") for kind, _ in findings.items()), list(findings.items())


def test_polygons_stay_polygons(folder):
    records, metadata = load(folder, **write_yolo(folder, polygons=True))
    assert all("segmentation" in a for record in records for a in record["annotations"])
    assert metadata.get("keypoint_names") is None


def test_small_quadrilaterals_anywhere_are_no_poses(folder):
    write_yolo(folder)
    rng = np.random.default_rng(0)
    lines = []
    for x, y in rng.uniform(0.05, 0.9, (40, 2)):
        lines.append(f"0 {x} {y} {x + 0.05} {y} {x + 0.05} {y + 0.05} {x} {y + 0.05}")
    (folder / "labels/a.txt").write_text("\n".join(lines))
    (folder / "labels/deep/b.txt").unlink()
    records, _ = load(folder, form="yolo", images="images", classes="data.yaml")
    assert sum("segmentation" in a for record in records for a in record["annotations"]) == 40


def test_a_confidence_is_named(folder):
    write_yolo(folder)
    (folder / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2 0.9\n")
    with pytest.raises(ValueError, match="confidence"):
        load(folder, form="yolo", images="images", classes="data.yaml")


def test_a_data_yaml_is_a_data_set_file(folder):
    write_yolo(folder)
    content = {"train": "../images", "val": "images", "names": list(CLASSES), "nc": 2}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    entries = read_catalog(str(folder / "data.yaml"))
    assert {name: entry["images"] for name, entry in entries.items()} == {
        "train": str(folder / "images"), "val": str(folder / "images")
    }  # fmt: skip
