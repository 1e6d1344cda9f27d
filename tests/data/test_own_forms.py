"""Every form of own data: the same objects whatever they are stored in, and what may differ between tools."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.structures import BoxMode
from densekit.data import register_dataset, register_from_yaml
from densekit.data.labels import load_sem_seg
from densekit.data.own import FORMS
from tests.data.own_forms import (
    CLASSES,
    OBJECTS,
    SIZE,
    load,
    mask_shape,
    picture,
    write_catalog,
    write_labelme,
    write_semantic,
    write_voc,
    write_yolo,
)


def found(records, metadata):
    """{image: [(class, corners)]}"""
    for annotation in (a for record in records for a in record["annotations"]):
        assert annotation["bbox_mode"] == BoxMode.XYXY_ABS and annotation["iscrowd"] == 0
    return {
        record["image_id"]: [
            (metadata.thing_classes[a["category_id"]], tuple(round(v, 4) for v in a["bbox"]))
            for a in record["annotations"]
        ]
        for record in records
    }


@pytest.mark.parametrize(
    "write",
    [write_voc, write_yolo, lambda folder: write_yolo(folder, polygons=True), write_labelme],
    ids=["voc", "yolo", "yolo polygons", "labelme"],
)
def test_the_same_objects_in_every_form(folder, write):
    records, metadata = load(folder, **write(folder))
    assert found(records, metadata) == OBJECTS
    assert metadata.thing_classes == list(CLASSES) and metadata.evaluator_type == "coco"
    for record in records:
        assert (record["width"], record["height"]) == SIZE
        assert record["file_name"] == str(folder / "images" / f"{record['image_id']}.jpg")


def test_polygons_are_kept_where_the_form_has_them(folder):
    for write in (write_labelme, lambda folder: write_yolo(folder, polygons=True)):
        for record in load(folder, **write(folder))[0]:
            for annotation in record["annotations"]:
                points = np.reshape(annotation["segmentation"][0], (-1, 2))
                assert [*points.min(0), *points.max(0)] == pytest.approx(annotation["bbox"])
        DatasetCatalog.remove("mine")
        MetadataCatalog.remove("mine")


def test_ids_of_the_data_set(folder):
    _, metadata = load(folder, **write_yolo(folder) | {"classes": {3: "cat", 0: "fish", 1: "dog"}})
    assert metadata.thing_classes == ["fish", "dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {0: 0, 1: 1, 3: 2}
    register_from_yaml(write_catalog(folder, by_name=write_voc(folder)))
    DatasetCatalog.get("by_name")
    assert MetadataCatalog.get("by_name").thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    register_from_yaml(write_catalog(folder, numbered=write_voc(folder) | {"classes": {7: "cat", 3: "dog"}}))
    DatasetCatalog.get("numbered")
    assert MetadataCatalog.get("numbered").thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.json", '{"1": "dog", "0": "cat"}'),
        ("classes.json", '\ufeff{"names": {"0": "cat", "1": "dog"}}'),
        ("classes.yaml", "nc: 2\nnames: {0: cat, 1: dog}"),
        ("classes.txt", "\ufeffcat\ndog\n"),
    ],
)
def test_files_of_classes(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    records, metadata = load(folder, **write_yolo(folder) | {"classes": name})
    assert metadata.thing_classes == list(CLASSES) and len(records) == 3


def test_masks_of_labelme_may_be_a_pixel_wide(folder):
    entry = write_labelme(folder)
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 1), 255, dtype=np.uint8)).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    shape = {"label": "cat", "shape_type": "mask", "points": [[3, 4], [3, 8]], "mask": mask}
    (folder / "json" / "c.json").write_text(json.dumps({"shapes": [shape]}))
    (record,) = (record for record in load(folder, **entry)[0] if record["image_id"] == "c")
    (annotation,) = record["annotations"]
    assert annotation["bbox"] == [3, 4, 4, 9]


def test_boxes_of_voc_may_leave_the_image_a_little(folder):
    entry = write_voc(folder)
    xml = folder / "xml" / "deep" / "b.xml"
    xml.write_text(xml.read_text().replace("<xmin>11<", "<xmin>0<").replace(f"<width>{SIZE[0]}<", "<width>0<")
                   .replace(f"<height>{SIZE[1]}<", "<height>0<"))  # fmt: skip
    records, _ = load(folder, **entry)
    (record,) = (record for record in records if record["image_id"] == "deep/b")
    assert record["annotations"][0]["bbox"] == [0, 10, 20, 28] and record["width"] == SIZE[0]


@pytest.mark.parametrize("lines", ["a\n", "a.jpg\n", "./images/a.jpg\n", "C:\\data\\a.jpg\n", "\na\n\n"])
def test_lists_of_names(folder, lines):
    (folder / "list.txt").write_text(lines)
    for entry in (write_voc(folder), write_yolo(folder), write_labelme(folder), write_semantic(folder),
                  {"form": "images", "images": "images"}):  # fmt: skip
        records, _ = load(folder, split="list.txt", **entry)
        assert [record["image_id"] for record in records] == ["a"], entry
        DatasetCatalog.remove("mine")
        MetadataCatalog.remove("mine")


def test_names_in_folders(folder):
    picture(folder / "images" / "other" / "b.jpg")
    for line, wanted in (("deep/b", "deep/b"), ("images/other/b.jpg", "other/b")):
        (folder / "list.txt").write_text(line)
        register_dataset(wanted, "images", images=str(folder / "images"), split=str(folder / "list.txt"))
        assert [record["image_id"] for record in DatasetCatalog.get(wanted)] == [wanted]


def test_semantic(folder):
    entry = write_semantic(folder)
    records, metadata = load(folder, **entry)
    assert metadata.stuff_classes == list(CLASSES) and metadata.ignore_label == 255
    assert metadata.evaluator_type == "sem_seg" and metadata.stuff_dataset_id_to_contiguous_id == {0: 0, 1: 1}
    by_name = {record["image_id"]: load_sem_seg(record) for record in records}
    assert set(np.unique(by_name["c"])) == {255} and set(np.unique(by_name["deep/b"])) == {0, 255}
    assert (by_name["a"] == 1).sum() == 200 and (by_name["a"] == 0).sum() == 1000


def test_semantic_with_numbers_and_other_names(folder):
    entry = write_semantic(folder)
    for path in (folder / "maps").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    (folder / "classes.json").write_text(
        json.dumps({"classes": ["cat", "dog", "x"], "colors": [[1, 2, 3]] * 3, "ignore_label": 7})
    )
    records, metadata = load(folder, **entry | {"label_suffix": "_mask", "classes": {1: "dog", 0: "cat"}})
    assert metadata.stuff_classes == ["cat", "dog"] and len(records) == 3
    del entry["ignore"]
    register_dataset("three", **entry | {"images": str(folder / "images"), "labels": str(folder / "maps"),
                                         "classes": str(folder / "classes.json"), "label_suffix": "_mask"})  # fmt: skip
    assert MetadataCatalog.get("three").stuff_colors == [[1, 2, 3]] * 3
    assert load_sem_seg(DatasetCatalog.get("three")[1]).max() == 255


def test_shapes_of_labelme(folder, caplog):
    entry = write_labelme(folder)
    path = folder / "json" / "c.json"
    content = json.loads(path.read_text())
    content["shapes"] = [
        mask_shape(5, 6, 15, 12),
        {"label": "cat", "points": [[20, 15], [20, 20]], "shape_type": "circle"},
        {"label": "dog", "points": [[0, 0], [2, 0], [2, 2]], "group_id": 1},
        {"label": "dog", "points": [[30, 20], [32, 20], [32, 22]], "shape_type": "polygon", "group_id": 1},
        {"label": "dog", "points": [[1, 1]], "shape_type": "point"},
    ]
    path.write_text(json.dumps(content))
    records, _ = load(folder, **entry)
    (record,) = (record for record in records if record["image_id"] == "c")
    mask, circle, parts = record["annotations"]
    assert mask["bbox"] == [6, 6, 15, 12]  # the pixels that are set; the file's box begins a column before
    assert circle["bbox"] == pytest.approx([15, 10, 25, 20], abs=0.1) and len(circle["segmentation"][0]) == 64
    assert parts["bbox"] == [0, 0, 32, 22] and len(parts["segmentation"]) == 2
    assert "1 points and lines are left out" in caplog.text


def test_panoptic_and_cityscapes_forms(streets, tmp_path):
    annotations = streets / "annotations"
    catalog = write_catalog(
        tmp_path,
        pan={"form": "coco_panoptic", "json": str(annotations / "panoptic_val.json"), "images": str(streets / "val")},
        boxes={"form": "cityscapes", "root": str(streets / "cityscapes"), "split": "val", "task": "instance_seg"},
        maps={"form": "cityscapes", "root": str(streets / "cityscapes"), "split": "val", "task": "sem_seg"},
        both={"form": "cityscapes", "root": str(streets / "cityscapes"), "split": "val", "task": "panoptic_separated"},
    )
    assert register_from_yaml(catalog) == ["pan", "boxes", "maps", "both"] == register_from_yaml(catalog)
    records = {name: DatasetCatalog.get(name) for name in ("pan", "boxes", "maps", "both")}
    assert {len(r) for r in records.values()} == {2}
    kinds = {name: MetadataCatalog.get(name).evaluator_type for name in records}
    assert kinds == {"pan": "coco_panoptic_seg", "boxes": "cityscapes_instance", "maps": "cityscapes_sem_seg",
                     "both": "cityscapes_panoptic_seg"}  # fmt: skip
    assert MetadataCatalog.get("pan").thing_classes == ["person", "rider", "car", "truck", "bus", "bicycle"]
    register_from_yaml(catalog)  # what was learned by loading is no contradiction
    assert "annotations" in records["pan"][0] and "sem_seg_file_name" in records["pan"][0]


def test_keypoints_without_sides_name_their_pairs(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    points = ["nose", "eye_l", "eye_r"]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": SIZE[0], "height": SIZE[1]}],
        "categories": [{"id": 1, "name": "dog", "keypoints": points}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [2, 2, 2] * 3}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    entry = {"json": "a.json", "images": "images", "keypoint_flip_map": [["eye_l", "eye_r"]]}
    _, metadata = load(tmp_path, **entry)
    assert metadata.keypoint_names == tuple(points) and metadata.keypoint_flip_map == (("eye_l", "eye_r"),)


def test_camvid_as_it_is(shared_data_dir, tmp_path):
    camvid = shared_data_dir / "camvid"
    entry = {"form": "semantic", "images": str(camvid / "images" / "val"), "labels": str(camvid / "labels" / "val"),
             "classes": str(camvid / "classes.json"), "split": str(camvid / "val.txt")}  # fmt: skip
    records, metadata = load(tmp_path, **entry)
    assert len(records) == 101 and len(metadata.stuff_classes) == 11 and metadata.stuff_classes[3] == "Road"
    raw = np.asarray(Image.open(records[0]["sem_seg_file_name"]))
    np.testing.assert_array_equal(load_sem_seg(records[0]), np.where(raw == 11, 255, raw))


def test_every_form_is_described():
    for name, form in FORMS.items():
        assert form.about and all(option.about for option in form.options.values()), name


def test_labels_beside_the_images_by_default(folder):
    entry = write_yolo(folder)
    register_dataset("beside", **entry | {"images": str(folder / "images"), "classes": str(folder / "data.yaml")})
    assert len(DatasetCatalog.get("beside")) == 3
    (folder / "labels").rename(folder / "texts")
    with pytest.raises(FileNotFoundError, match="Name their folder under 'labels'"):
        register_dataset("nowhere", **entry | {"images": str(folder / "images"), "classes": ["cat", "dog"]})
