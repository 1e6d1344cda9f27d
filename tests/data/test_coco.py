"""COCO files as records, their registration, and real data."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest

import densekit.data
from densekit.d2.data import DatasetCatalog, MetadataCatalog, detection_utils
from densekit.d2.data.transforms import ResizeTransform, TransformList
from densekit.d2.structures import BoxMode
from densekit.data.coco import load_coco_json, register_coco_instances
from densekit.data.ground_truth import GroundTruth
from densekit.evaluation.coco_metrics import evaluate_coco


def test_records(tiny):
    records = tiny.load("tiny_a")
    assert [record["image_id"] for record in records] == [11, 21, 31]
    first = records[0]
    assert first["file_name"] == str(tiny.image_root / "11.jpg") and (first["height"], first["width"]) == (30, 40)
    assert [(a["id"], a["category_id"]) for a in first["annotations"]] == [(101, 0), (102, 1)]
    assert first["annotations"][0]["bbox"] == [10, 5, 20, 10]
    assert first["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert first["annotations"][0]["keypoints"] == [12.5, 6.5, 2, 13.5, 7.5, 1, 0.5, 0.5, 0]
    assert records[2]["annotations"] == []
    metadata = MetadataCatalog.get("tiny_a")
    assert metadata.thing_classes == ["person", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.keypoint_names == ("nose", "left_eye", "right_eye")
    assert metadata.keypoint_flip_map == (("left_eye", "right_eye"),)


def test_boxes_of_whole_numbers_are_resized_to_fractions(tiny):
    annotation = tiny.load("tiny_a")[0]["annotations"][0]  # 10, 5, 20, 10 of 40 x 30 pixels
    detection_utils.transform_instance_annotations(
        annotation, TransformList([ResizeTransform(30, 40, 31, 42)]), (31, 42)
    )
    np.testing.assert_allclose(annotation["bbox"], [10.5, 5 * 31 / 30, 31.5, 15.5], atol=1e-4)


def test_a_skeleton_becomes_the_limbs_of_pictures(tiny):
    tiny.content["categories"][1]["skeleton"] = [
        [1, 2],
        [2, 3],
        [3, 9],
        3,
        ["a", "b"],
    ]  # there is no ninth point, and names are none
    tiny.write()
    tiny.load("tiny_limbs")
    limbs = MetadataCatalog.get("tiny_limbs").keypoint_connection_rules
    assert [limb[:2] for limb in limbs] == [("nose", "left_eye"), ("left_eye", "right_eye")]
    assert all(len(colour) == 3 and all(0 <= c <= 255 for c in colour) for *_, colour in limbs)


def test_without_a_name_categories_keep_their_ids(tiny):
    assert [a["category_id"] for a in tiny.load()[0]["annotations"]] == [3, 7]


def test_loading_twice_gives_the_same(tiny):
    """Upstream moved the keypoints of a cached data set by half a pixel at each conversion."""
    assert tiny.load("tiny_a") == tiny.load("tiny_a")


def test_extra_keys_and_uncompressed_rle(tiny):
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[5:15, 10:30] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    tiny.content["annotations"][0].update(segmentation={"size": [30, 40], "counts": counts}, iscrowd=1, depth=3)
    annotation = load_coco_json(tiny.write().json_file, "x", None, ["depth"])[0]["annotations"][0]
    assert annotation["depth"] == 3 and annotation["iscrowd"] == 1
    np.testing.assert_array_equal(mask_util.decode(annotation["segmentation"]), mask)


def test_numbers_as_names_and_sizes_with_a_point(tiny):
    for category in tiny.content["categories"]:
        category["name"] = category["id"]
    for image in tiny.content["images"]:
        image.update(width=40.0, height=30.0)
    records = tiny.load("tiny_numbers")
    assert MetadataCatalog.get("tiny_numbers").thing_classes == ["3", "7"]
    assert [type(record["width"]) for record in records] == [int] * 3
    truth = GroundTruth.from_coco(tiny.content, "tiny")
    assert truth.categories == {3: "3", 7: "7"}
    keys = ("image_id", "category_id", "bbox")
    results = [{key: a[key] for key in keys} | {"score": 1.0} for a in tiny.content["annotations"]]
    for result, annotation in zip(results, tiny.content["annotations"]):
        result["segmentation"] = mask_util.frPyObjects(annotation["segmentation"], 30, 40)[0]
    assert evaluate_coco(truth, results, "segm").metrics["AP"] == pytest.approx(100)


def test_test_sets_come_without_annotations(tiny):
    del tiny.content["annotations"]
    tiny.json_file = tiny.folder / "image_info_test.json"
    assert [record["annotations"] for record in tiny.load()] == [[], [], []]


def test_registering_twice(tiny):
    tiny.register("tiny_a")
    tiny.register("tiny_a")
    assert len(DatasetCatalog.get("tiny_a")) == 3
    tiny.register("tiny_a")  # also after loading
    metadata = MetadataCatalog.get("tiny_a")
    assert metadata.evaluator_type == "coco" and metadata.json_file == str(tiny.json_file)
    with pytest.raises(ValueError, match=r"tiny_a.*tiny\.json.*other\.json"):
        register_coco_instances("tiny_a", {}, "other.json", str(tiny.image_root))
    with pytest.raises(ValueError, match=r"thing_classes.*'person'.*'cat'"):
        register_coco_instances("tiny_a", {"thing_classes": ["cat"]}, str(tiny.json_file), str(tiny.image_root))
    DatasetCatalog.register("tiny_b", list)
    with pytest.raises(ValueError, match=r"tiny_b.*another loader"):
        tiny.register("tiny_b")


def test_standard_names():
    names = DatasetCatalog.list()
    assert {"coco_2017_train", "coco_2014_minival", "coco_2017_test-dev", "keypoints_coco_2017_val"} <= set(names)
    assert {"streets_train", "streets_val", "keypoints_streets_train", "keypoints_streets_val"} <= set(names)
    coco = MetadataCatalog.get("coco_2017_val")
    assert len(coco.thing_classes) == len(coco.thing_colors) == 80
    assert coco.thing_classes[0] == "person" and coco.thing_classes[79] == "toothbrush"
    assert coco.thing_dataset_id_to_contiguous_id[90] == 79 and coco.evaluator_type == "coco"
    person = MetadataCatalog.get("keypoints_coco_2017_train")
    assert len(person.keypoint_names) == 17 and len(person.keypoint_flip_map) == 8
    assert {name for pair in person.keypoint_flip_map for name in pair} | {"nose"} == set(person.keypoint_names)
    assert all({a, b} <= set(person.keypoint_names) for a, b, _ in person.keypoint_connection_rules)


def test_standard_names_have_our_loader():
    with pytest.raises(FileNotFoundError, match=r"instances_val2017_100\.json.*DETECTRON2_DATASETS"):
        DatasetCatalog.get("coco_2017_val_100")


def test_package_gives_its_names():
    assert densekit.data.register_coco_instances is register_coco_instances
    assert all(getattr(densekit.data, name) is not None for name in densekit.data.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = densekit.data.nothing


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_loads(shared_data_dir, split, caplog):
    folder = shared_data_dir / "coco_mini"
    instances = load_coco_json(folder / f"annotations/instances_{split}2017.json", folder / f"{split}2017", "mini_a")
    persons = load_coco_json(
        folder / f"annotations/person_keypoints_{split}2017.json", folder / f"{split}2017", "mini_keypoints"
    )
    counts = {"train": (80, 739, 172), "val": (79, 624, 118)}[split]
    assert (len(instances), *(sum(len(r["annotations"]) for r in rs) for rs in (instances, persons))) == counts
    standard = MetadataCatalog.get("coco_2017_val").as_dict()
    mine = MetadataCatalog.get("mini_a").as_dict()
    assert mine["thing_classes"] == standard["thing_classes"]
    assert mine["thing_dataset_id_to_contiguous_id"] == standard["thing_dataset_id_to_contiguous_id"]
    points = MetadataCatalog.get("mini_keypoints")
    known = MetadataCatalog.get("keypoints_coco_2017_val")
    assert points.keypoint_names == known.keypoint_names and points.keypoint_flip_map == known.keypoint_flip_map
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)])
def test_blood_cells_load(shared_data_dir, split, images, boxes):
    folder = shared_data_dir / "bccd"
    records = load_coco_json(folder / f"annotations/instances_{split}.json", folder / "images", f"bccd_{split}")
    assert (len(records), sum(len(r["annotations"]) for r in records)) == (images, boxes)
    assert MetadataCatalog.get(f"bccd_{split}").thing_classes == ["RBC", "WBC", "Platelets"]
    assert copy.deepcopy(records) == records
