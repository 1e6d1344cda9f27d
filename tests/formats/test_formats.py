"""Files for other tools say what the predictions say."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

import densekit.data.builtin  # noqa: F401 - registers the standard names
from densekit.d2.data import MetadataCatalog
from densekit.data.identity import describe_classes
from densekit.formats import coco_json, labelme, maps, yolo
from densekit.formats.classes import Classes
from densekit.formats.drawing import draw_picture
from densekit.formats.formats import FORMATS, check_formats, choose_formats, needed_products
from densekit.formats.shapes import mask_polygons, one_outline

CLASSES = Classes(
    things=[(40, "cup"), (7, "Löffel")],
    labels=[(3, "floor"), (200, "wall")],
    looks={"keypoint_names": ("rim", "foot"), "keypoint_connection_rules": [("rim", "foot", (1, 2, 3))]},
)
SIZE = (90, 120)


def masks() -> list[np.ndarray]:
    """A disc, two parts with a gap, a ring, one pixel, and a strip along the border."""
    found = [np.zeros(SIZE, np.uint8) for _ in range(5)]
    cv2.circle(found[0], (60, 40), 25, 1, -1)
    found[1][10:40, 5:25] = 1
    found[1][50:80, 12:40] = 1
    cv2.circle(found[2], (60, 45), 30, 1, -1)
    cv2.circle(found[2], (60, 45), 15, 0, -1)
    found[3][33, 44] = 1
    found[4][:, 110:] = 1
    return found


def line(number: int = 1, *, with_masks: bool = True, with_points: bool = False) -> dict:
    results = []
    for k, mask in enumerate(masks()):
        rle = mask_utils.encode(np.asfortranarray(mask))
        result = {"image_id": number, "category_id": [40, 7][k % 2], "bbox": mask_utils.toBbox(rle).tolist()}
        result["score"] = 0.5 + k / 10
        if with_masks:
            result["segmentation"] = {"size": list(SIZE), "counts": rle["counts"].decode()}
        if with_points:
            result["keypoints"] = [10.0, 20.0, 0.3, 30.0, 40.0, 0.9]
        results.append(result)
    name = f"sub/{number}.png"
    stem = f"sub/{number}"
    return {"image_id": number, "file_name": name, "stem": stem, "height": 90, "width": 120, "instances": results}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def drawn(polygons: list) -> np.ndarray:
    flat = [np.asarray(polygon).ravel().tolist() for polygon in polygons]
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(flat, *SIZE)))


def test_polygons_cover_their_masks():
    for mask in masks():
        found = mask_polygons(mask_utils.encode(np.asfortranarray(mask)))
        assert iou(drawn(found), mask) > (0.95 if mask.sum() > 1 else 0.2)


def test_one_outline_encloses_what_its_parts_enclose():
    for mask in masks():
        if mask.sum() == 1:
            continue
        outline = one_outline(mask_polygons(mask_utils.encode(np.asfortranarray(mask))))
        canvas = np.zeros(SIZE, np.uint8)
        inside = [cv2.pointPolygonTest(outline.astype(np.float32), (x + 0.5, y + 0.5), False) >= 0
                  for y in range(SIZE[0]) for x in range(SIZE[1])]  # fmt: skip
        canvas[:] = np.array(inside).reshape(SIZE)
        assert iou(canvas, mask) > 0.95


def test_results_are_a_plain_list(tmp_path):
    coco_json.write_results(tmp_path, [line(1), line(2)], CLASSES)
    assert json.loads((tmp_path / coco_json.RESULTS).read_text()) == line(1)["instances"] + line(2)["instances"]
    coco_json.write_results(tmp_path, [], CLASSES)
    assert json.loads((tmp_path / coco_json.RESULTS).read_text()) == []


@pytest.mark.parametrize("points", [False, True])
def test_the_whole_file_opens_and_its_results_score_full_marks(tmp_path, points):
    lines = [line(1, with_points=points), line(9, with_points=points)]
    coco_json.write_full(tmp_path, lines, CLASSES)
    truth = COCO(str(tmp_path / coco_json.FULL))
    assert [image["file_name"] for image in truth.loadImgs(truth.getImgIds())] == ["sub/1.png", "sub/9.png"]
    assert {c["id"]: c["name"] for c in truth.loadCats(truth.getCatIds())} == {40: "cup", 7: "Löffel"}
    annotations = truth.loadAnns(truth.getAnnIds())
    assert [a["id"] for a in annotations] == list(range(1, 11)) and not any(a["iscrowd"] for a in annotations)
    for annotation, mask in zip(annotations, masks() * 2):
        assert np.array_equal(truth.annToMask(annotation), mask) and annotation["area"] == mask.sum()
    if points:
        assert annotations[0]["keypoints"] == [10.0, 20.0, 2, 30.0, 40.0, 2]
        assert annotations[0]["keypoint_scores"] == [0.3, 0.9] and truth.cats[40]["skeleton"] == [[1, 2]]


def test_the_whole_file_has_what_tools_ask_for(tmp_path):
    """CVAT reads numbers as ids only, and asks every annotation for its segmentation."""
    named = [line(name, with_masks=False) | {"index": k} for k, name in enumerate(("Blood_1", "Blood_2"))]
    coco_json.write_full(tmp_path, named, CLASSES)
    content = json.loads((tmp_path / coco_json.FULL).read_text())
    assert content.keys() == {"info", "licenses", "images", "categories", "annotations"}
    assert [image["id"] for image in content["images"]] == [1, 2]
    assert [a["image_id"] for a in content["annotations"]] == [1] * 5 + [2] * 5
    for annotation in content["annotations"]:
        assert annotation.keys() >= {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}
    truth = COCO(str(tmp_path / coco_json.FULL))
    results = [result | {"image_id": 1} for result in named[0]["instances"]]
    assert len(truth.loadRes(results).anns) == 5


def test_labelme_names_the_classes_and_finds_the_picture(tmp_path):
    source = tmp_path / "photos" / "sub" / "1.png"
    labelme.write_picture(tmp_path / "out", line(), str(source), CLASSES)
    path = tmp_path / "out" / "labelme" / "sub" / "1.json"
    content = json.loads(path.read_text())
    assert (path.parent / content["imagePath"]).resolve() == source
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (90, 120, None)
    by_label = [shape["label"] for shape in content["shapes"]]
    assert set(by_label) == {"cup", "Löffel"}
    # The parts of the second object belong together, and a whole one needs no group.
    parts = [shape for shape in content["shapes"] if shape["score"] == 0.6]
    assert len(parts) == 2 and len({shape["group_id"] for shape in parts}) == 1 and parts[0]["group_id"] is not None
    assert content["shapes"][0]["group_id"] is None
    assert iou(drawn([shape["points"] for shape in parts]), masks()[1]) > 0.95
    labelme.write_picture(tmp_path, line(with_masks=False, with_points=True), str(source), CLASSES)
    shapes = json.loads((tmp_path / "labelme" / "sub" / "1.json").read_text())["shapes"]
    assert [s["shape_type"] for s in shapes[:3]] == ["rectangle", "point", "point"]
    assert [s["label"] for s in shapes[:3]] == ["cup", "rim", "foot"] and shapes[1]["points"] == [[10.5, 20.5]]
    x, y, width, height = line()["instances"][0]["bbox"]
    assert shapes[0]["points"] == [[x, y], [x + width, y + height]]


def test_yolo_rows_are_shares_of_the_picture(tmp_path):
    yolo.write_picture(tmp_path, line(with_masks=False), "", CLASSES)
    rows = [row.split() for row in (tmp_path / "yolo" / "labels" / "sub" / "1.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == ["0", "1", "0", "1", "0"]
    for row, result in zip(rows, line()["instances"]):
        middle_x, middle_y, width, height = (float(v) * s for v, s in zip(row[1:], (120, 90, 120, 90)))
        assert np.allclose([middle_x - width / 2, middle_y - height / 2, width, height], result["bbox"], atol=1e-3)
    yolo.write_picture(tmp_path, line(), "", CLASSES)
    row = (tmp_path / "yolo" / "labels" / "sub" / "1.txt").read_text().splitlines()[0].split()
    outline = np.array(row[1:], dtype=float).reshape(-1, 2) * [120, 90]
    assert iou(drawn([outline]), masks()[0]) > 0.95
    yolo.write_picture(tmp_path, line(with_points=True), "", CLASSES)
    row = (tmp_path / "yolo" / "labels" / "sub" / "1.txt").read_text().splitlines()[0].split()
    assert np.allclose(np.array(row[5:], dtype=float), [10.5 / 120, 20.5 / 90, 2, 30.5 / 120, 40.5 / 90, 2], atol=1e-5)
    yolo.write_picture(tmp_path, {**line(), "instances": []}, "", CLASSES)
    assert (tmp_path / "yolo" / "labels" / "sub" / "1.txt").read_text() == ""
    yolo.write_names(tmp_path, [], CLASSES)
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert content["names"] == {0: "cup", 1: "Löffel"} and content["kpt_shape"] == [2, 3]
    assert (tmp_path / "yolo" / "classes.txt").read_text().splitlines() == ["cup", "Löffel"]


def test_panoptic_json_has_the_official_fields(tmp_path):
    segments = [{"id": 2, "category_id": 40, "area": 9, "iscrowd": 0, "isthing": True, "score": 0.7}]
    maps.write_panoptic(tmp_path, [{**line(), "segments_info": segments}], CLASSES)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    (annotation,) = content["annotations"]
    assert annotation["file_name"] == "sub/1.png" and annotation["image_id"] == 1
    assert annotation["segments_info"] == [{"id": 2, "category_id": 40, "area": 9, "iscrowd": 0, "score": 0.7}]
    assert {c["id"]: c["isthing"] for c in content["categories"]} == {3: 0, 200: 0, 40: 1, 7: 1}


def test_formats_are_chosen_by_what_the_model_gives():
    assert choose_formats([], ["instances"]) == ["coco"]
    assert choose_formats([], ["instances", "semantic", "panoptic"]) == ["coco", "panoptic", "semantic"]
    assert choose_formats(["yolo", "overlay", "yolo"], ["instances"]) == ["yolo", "overlay"]
    with pytest.raises(ValueError, match="--format tiff: the formats are coco, coco_full"):
        check_formats(["coco", "tiff"])
    with pytest.raises(ValueError, match="needs instances, and this model gives semantic"):
        choose_formats(["labelme"], ["semantic"])
    every = ["instances", "semantic", "panoptic"]
    assert needed_products(["coco", "overlay"], every) == ["instances"]
    assert needed_products(["overlay"], every) == every
    assert all(set(entry.needs) <= {*every, "inpainted", "classes"} for entry in FORMATS.values())


def test_classes_are_those_of_the_data_set():
    MetadataCatalog.get("pots").set(thing_classes=["pan", "lid"], thing_dataset_id_to_contiguous_id={9: 1, 4: 0, 8: 1})
    found = Classes.of(MetadataCatalog.get("pots"))
    assert found.things == [(4, "pan"), (9, "lid")] and not found.labels
    assert found.or_numbers(2, 2).labels == [(0, "class 0"), (1, "class 1")]
    with pytest.raises(ValueError, match="class 2 for objects"):
        found.thing_id(2)
    city = MetadataCatalog.get("some_city")
    city.set(evaluator_type="cityscapes_sem_seg", stuff_classes=["road", "sky", "car"])
    assert Classes.of(city).labels == [(7, "road"), (23, "sky"), (26, "car")]


@pytest.mark.parametrize(
    ("name", "thing", "label", "segments"),
    [
        ("coco_2017_val_panoptic", (13, "stop sign"), (13, "stop sign"), 133),
        ("coco_2017_val_panoptic_separated", (13, "stop sign"), (100, "cardboard"), 133),
        ("cityscapes_fine_panoptic_val", (19, "traffic light"), (19, "traffic light"), 19),
        ("keypoints_coco_2017_val", (1, "person"), None, 1),
        ("keypoints_streets_val", (1, "person"), None, 1),
    ],
)
@pytest.mark.parametrize("written", [False, True])
def test_ids_of_standard_names_need_no_data(name, thing, label, segments, written):
    """Weights of others come without a list of classes, and the data set that they were trained on is elsewhere."""
    metadata = MetadataCatalog.get(name)
    classes = Classes.of_description(describe_classes(name)) if written else Classes.of(metadata)
    assert thing in classes.things and (label in classes.labels if label else not classes.labels)
    found = {key: (name, is_thing) for key, name, is_thing in classes.segments()}
    assert len(found) == segments and min(found) >= 1
    things = set(metadata.thing_dataset_id_to_contiguous_id)
    assert {key for key, (_, is_thing) in found.items() if is_thing} == things
    assert [key for key, _ in classes.objects()] == sorted(things)


def test_huge_pictures_are_drawn_smaller_with_all_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("densekit.formats.drawing._LARGE", 60)
    monkeypatch.setattr("densekit.formats.drawing._SMALL", 1)
    pixels = np.full((*SIZE, 3), 120, np.uint8)
    one = {**line(), "instances": line()["instances"][:1]}
    picture = draw_picture(pixels, one, tmp_path, CLASSES)
    assert picture.shape == (45, 60, 3)
    changed = np.abs(picture.astype(int) - 120).max(axis=2) > 20
    assert changed[20, 30] and not changed[:, :12].any()


def test_label_maps_are_drawn_in_the_colours_of_their_classes(tmp_path):
    (tmp_path / "semantic" / "sub").mkdir(parents=True)
    values = np.full(SIZE, 3, np.uint8)
    values[:, 60:] = 200
    Image.fromarray(values).save(tmp_path / "semantic" / "sub" / "1.png")
    classes = Classes(labels=CLASSES.labels, looks={"stuff_colors": [[250, 0, 0], [0, 0, 250]]})
    bare = {key: value for key, value in line().items() if key != "instances"}
    picture = draw_picture(np.full((*SIZE, 3), 120, np.uint8), bare, tmp_path, classes).astype(int)
    left, right = picture[50:-50, 50:400].reshape(-1, 3), picture[50:-50, -400:-50].reshape(-1, 3)
    assert np.median(left[:, 0] - left[:, 2]) > 60 and np.median(right[:, 2] - right[:, 0]) > 60
