"""Own data with one fault each: one message that names the file, what is wrong and what to do."""

import json

import numpy as np
import pytest
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data import register_dataset, register_from_yaml
from densekit.data.labels import load_sem_seg
from tests.data.own_forms import load, picture, write_catalog, write_labelme, write_semantic, write_voc, write_yolo


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


VOC = [
    ("<annotation>", "<annotation", r"a\.xml is not XML"),
    ("annotation", "annotations", r"a\.xml is not XML"),
    ("<width>40<", "<width>41<", r"a\.xml says 41 x 30 .*a\.jpg is 40 x 30"),
    ("<width>40<", "<width>wide<", r"<width> is 'wide', which is no number"),
    ("<name>dog<", "<name> <", "an object has no name"),
    ("<name>dog<", "<name>Dog<", r"'Dog', which .*own\.yaml.*does not list \(cat, dog\)"),
    ("<xmin>5</xmin>", "", "<xmin> is None"),
    ("<xmin>5<", "<xmin>nan<", "<xmin> is 'nan'"),
    ("<xmin>5<", "<xmin>30<", "box of 'dog', 30 7 24 16 .*no area"),
    ("<bndbox>", "<box>", "not XML"),
    ("<annotation>", "<?xml version='1.0' encoding='gb2312'?><annotation>", r"a\.xml is not XML.*saved in UTF-8"),
    ("<annotation>", "<?xml version='1.0' encoding='none'?><annotation>", r"a\.xml is not XML.*saved in UTF-8"),
]


@pytest.mark.parametrize(("old", "new", "says"), VOC)
def test_voc(folder, old, new, says):
    entry = write_voc(folder)
    edit(folder / "xml" / "a.xml", old, new)
    with pytest.raises(ValueError, match=says):
        load(folder, **entry, classes=["cat", "dog"])


def test_voc_of_another_kind(folder):
    entry = write_voc(folder)
    (folder / "xml" / "a.xml").write_text("<svg/>")
    with pytest.raises(ValueError, match=r"a\.xml is no Pascal VOC file: it is a <svg>"):
        load(folder, **entry)


YOLO = [
    ("1 0.35", "2 0.35", r"a\.txt, line 1: class 2 is not in .*data\.yaml, which has 2 classes"),
    ("1 0.35", "1.5 0.35", "class 1.5 is not in"),
    ("1 0.35", "1 x0.35", "not made of numbers"),
    ("1 0.35", "1 14.35", "outside 0 to 1"),
    ("1 0.35", "1 nan ", "outside 0 to 1|numbers"),
    ("1 0.35", "1 0.5 0.35", "6 numbers"),
    ("0.50000000 0.33333333", "0.5 0", "no area"),
]


@pytest.mark.parametrize(("old", "new", "says"), YOLO)
def test_yolo(folder, old, new, says):
    entry = write_yolo(folder)
    edit(folder / "labels" / "a.txt", old, new)
    with pytest.raises(ValueError, match=says) as caught:
        load(folder, **entry)
    assert "a.txt, line 1" in str(caught.value)


def test_yolo_polygon_without_area_and_folder_without_texts(folder):
    entry = write_yolo(folder, polygons=True)
    (folder / "labels" / "a.txt").write_text("0 0.1 0.1 0.2 0.1 0.3 0.1\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 1: the polygon has no area"):
        load(folder, **entry)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No image of .*images has a text file"):
        register_dataset("empty", **entry | {"images": str(folder / "images"), "classes": ["cat", "dog"],
                                             "labels": str(folder / "empty")})  # fmt: skip
        DatasetCatalog.get("empty")


LABELME = [
    (lambda c: c.pop("shapes"), "no list 'shapes'"),
    (lambda c: c.update(imageHeight=31), "says 40 x 31 .*40 x 30"),
    (lambda c: c["shapes"][0].pop("label"), "shape number 0 has no label"),
    (lambda c: c["shapes"][0].update(points=[[1, 2]]), "shape number 0 .*'rectangle' with 1 points"),
    (lambda c: c["shapes"][1].update(points=[[1, 2], [3, 4]]), r"shape number 1 \(cat\) is a polygon without area"),
    (lambda c: c["shapes"][1].update(points="x"), "no list of finite"),
    (lambda c: c["shapes"][1].update(points=[[1, float("nan")]] * 3), "no list of finite"),
    (lambda c: c["shapes"][0].update(shape_type="star"), "shape_type 'star'"),
    (lambda c: c["shapes"][0].update(shape_type="mask", mask="%%"), "no PNG in base 64"),
    (lambda c: c["shapes"][0].update(points=[[3, 3], [3, 9]]), "rectangle without area"),
    (lambda c: c["shapes"][0].update(points=[[3, 3], [3, 3]], shape_type="circle"), "circle without area"),
    (lambda c: c["shapes"][0].update(label="horse"), r"'horse', which .*does not list \(cat, dog\)"),
]


@pytest.mark.parametrize(("change", "says"), LABELME)
def test_labelme(folder, change, says):
    entry = write_labelme(folder)
    path = folder / "json" / "a.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says):
        load(folder, **entry, classes=["cat", "dog"])


@pytest.mark.parametrize("write", [write_voc, write_labelme])
def test_annotations_without_their_image(folder, write):
    entry = write(folder)
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"/a\.(xml|json) describes an image a that is not in .*images"):
        load(folder, **entry)


@pytest.mark.parametrize("write", [write_voc, write_yolo, write_labelme, write_semantic])
def test_images_that_cannot_be_read(folder, write):
    entry = write(folder)
    (folder / "images" / "a.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"Image .*a\.jpg cannot be read: it is no image"):
        load(folder, **entry)


def test_empty_folders_and_lists(folder):
    entry = write_voc(folder)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no pictures .* Is it the right one"):
        load(folder, **entry | {"images": "empty"})
    (folder / "list.txt").write_text("a\nz.jpg\n")
    for text, says in (("a\nz.jpg\n", r"list\.txt, line 2: 'z\.jpg' is the name of no image"), ("\n", "is empty")):
        (folder / "list.txt").write_text(text)
        with pytest.raises(ValueError, match=says):
            register_from_yaml(write_catalog(folder, listed=entry | {"split": "list.txt"}))
            DatasetCatalog.get("listed")


def test_two_images_of_one_name(folder):
    picture(folder / "images" / "a.png")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png differ in their ending only"):
        load(folder, form="images", images="images")


CLASS_LISTS = [
    ([], "no list of classes"),
    (["cat", "cat"], "'cat' occurs twice"),
    ({-1: "cat"}, "number -1"),
    ({"cat": 1}, "the number 'cat'"),
    ([None], "is no text"),
    (3, "no list of classes"),
    (["cat", "dog", "v"] + [str(n) for n in range(260)], "254 at most"),
]


@pytest.mark.parametrize(("classes", "says"), CLASS_LISTS)
def test_class_lists(folder, classes, says):
    entry = write_semantic(folder) | {"classes": classes, "ignore": []}
    with pytest.raises(ValueError, match=says) as caught:
        load(folder, **entry)
    assert "own.yaml" in str(caught.value)


def test_class_list_files(folder):
    entry = write_semantic(folder)
    (folder / "classes.json").write_text("[1, ")
    with pytest.raises(ValueError, match=r"classes\.json cannot be read"):
        load(folder, **entry | {"classes": "classes.json"})
    with pytest.raises(FileNotFoundError, match=r"classes is .*nowhere\.txt"):
        load(folder, **entry | {"classes": "nowhere.txt"})
    (folder / "classes.json").write_text(json.dumps({"names": ["a"], "colors": [[1, 2]]}))
    with pytest.raises(ValueError, match="colors must be"):
        load(folder, **entry | {"classes": "classes.json"})
    (folder / "classes.json").write_text(json.dumps({"names": ["a"], "ignore_label": "void"}))
    with pytest.raises(ValueError, match=r"classes\.json: ignore_label is 'void'"):
        load(folder, **entry | {"classes": "classes.json"})
    (folder / "data.yaml").write_text("nc: 3\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match=r"data\.yaml says nc: 3 and names 2 classes"):
        load(folder, **entry | {"classes": "data.yaml"})
    (folder / "classes.json").write_text(json.dumps({"0": "a", "00": "b"}))
    with pytest.raises(ValueError, match=r"classes\.json: the number 0 occurs twice"):
        load(folder, **entry | {"classes": "classes.json"})


def test_text_that_is_not_utf_8(folder):
    entry = write_yolo(folder)
    (folder / "list.txt").write_bytes(b"\xe4.jpg\n")
    with pytest.raises(ValueError, match=r"list\.txt is not text in UTF-8"):
        register_from_yaml(write_catalog(folder, listed=entry | {"split": "list.txt"}))
        DatasetCatalog.get("listed")
    (folder / "labels" / "a.txt").write_bytes(b"0 0.5 0.5 0.1 0.1 \xe4\n")
    with pytest.raises(ValueError, match=r"a\.txt is not text in UTF-8"):
        load(folder, **entry)


def test_label_maps(folder):
    entry = write_semantic(folder)
    with pytest.raises(ValueError, match=r"the label value 1 is the class 'dog' .* cannot be both"):
        load(folder, **entry | {"ignore": [7, 1]})
    del entry["ignore"]
    record = next(record for record in load(folder, **entry)[0] if record["image_id"] == "c")
    with pytest.raises(ValueError, match=r"c\.png has the value 7 in 1200 pixels.* Add it to the class list"):
        load_sem_seg(record)
    Image.fromarray(np.zeros((30, 41), dtype=np.uint8)).save(record["sem_seg_file_name"])
    with pytest.raises(ValueError, match=r"c\.png is 41 x 30 .*c\.jpg is 40 x 30"):
        load_sem_seg(record)
    (folder / "maps" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.jpg has no label map c\.png"):
        DatasetCatalog.get("mine")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"form": "cityscapes", "root": "images", "split": "val", "task": "sem_seg"},
            "leftImg8bit/val/ does not exist",
        ),
        ({"form": "cityscapes", "root": "images", "split": "val", "task": "boxes"}, "must be one of instance_seg"),
        ({"form": "cityscapes", "root": "images", "split": 3, "task": "sem_seg"}, "split is 3; it must be text"),
        ({"form": "semantic", "images": "images", "labels": "images", "classes": ["a"], "ignore": "x"}, "whole number"),
        ({"form": "coco", "json": "own.yaml", "images": "images", "keypoint_flip_map": ["a"]}, "list of pairs"),
        ({"form": "coco_panoptic", "json": "own.yaml", "images": "images"}, "Name their folder under 'segments'"),
        ({"form": None}, "form is None; known forms: coco, coco_panoptic"),
        ({"form": "images", "images": "own.yaml"}, "is a file and must be a folder"),
    ],
)
def test_entries(folder, entry, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        load(folder, **entry)
    assert "mine" in str(caught.value)


def test_names_from_json_stay_in_their_folder(tmp_path):
    picture(tmp_path / "outside.jpg")
    (tmp_path / "images").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "../outside.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.json: image 1 has the file name '\.\./outside\.jpg', which leads out"):
        load(tmp_path, json="a.json", images="images")
    content["images"][0]["file_name"] = "outside.jpg"
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_from_yaml(write_catalog(tmp_path / "images", other={"json": "../a.json", "images": ".."}))
    (record,) = DatasetCatalog.get("other")  # from the YAML file any path will do
    assert record["file_name"] == str(tmp_path / "outside.jpg")


def test_classes_found_twice_differently(folder):
    entry = write_voc(folder)
    load(folder, **entry)
    edit(folder / "xml" / "a.xml", "<name>dog<", "<name>fox<")
    with pytest.raises(ValueError, match="'mine' is known with the classes cat, dog, and the annotations has cat, fox"):
        DatasetCatalog.get("mine")
    assert MetadataCatalog.get("mine").thing_classes == ["cat", "dog"]
