"""Bad input, one case each: the error names the file, the id and value, and what to do."""

import logging

import numpy as np
import pytest
from PIL import Image

from densekit.d2.config import get_cfg
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.checks import check_datasets
from densekit.data.coco import load_coco_json
from densekit.data.mapper import DatasetMapper


def says(error, *parts):
    """All of the parts are in the message, and it is one line that a person can read."""
    message = str(error.value)
    assert not [part for part in parts if part not in message], message
    assert len(message) < 700 and "\n" not in message


# --- the annotation file -------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_coco_json(tmp_path / "none.json", tmp_path)
    says(error, "none.json", "DETECTRON2_DATASETS")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b'{"images": [1,\n 2', ("line 2", "column 3", "breaks off")),
        (b"<html>not found</html>", ("line 1", "<html>")),
        (b"", ("line 1",)),
        (b"\x89PNG\r\n\xff", ("byte 0",)),
        (b"[1, 2]", ("list of 2", "'images'")),
        (b'[{"image_id": 1, "score": 0.5}]', ("file of results",)),
        (b'"text"', ("str",)),
        (b'{"images": [], "licenses": []}', ("annotations, categories missing", "licenses")),
        (b'{"images": {}, "annotations": [], "categories": []}', ("'images' must be a list, not dict",)),
        (b'{"images": [], "annotations": [], "categories": []}', ("no images",)),
    ],
)
def test_not_coco(tmp_path, text, parts):
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(ValueError) as error:
        load_coco_json(path, tmp_path)
    says(error, "bad.json", *parts)


def set_annotation(**values):
    return lambda content: content["annotations"][1].update(values)


def drop(key, kind="annotations"):
    return lambda content: content[kind][1].pop(key)


def infinite_polygon(content):
    content["annotations"][1]["segmentation"] = [[1, 1, float("inf"), 1, 5, 5]]


BROKEN = {
    "unknown category": (set_annotation(category_id=99), ("annotation 102", "category_id 99", "3, 7")),
    "unknown image": (set_annotation(image_id=99), ("annotation 102", "image_id 99", "3 images")),
    "repeated annotation id": (set_annotation(id=101), ("annotation ids occur twice", "101", "unique")),
    "repeated image id": (lambda c: c["images"][1].update(id=31), ("image ids occur twice", "31")),
    "repeated category id": (lambda c: c["categories"][1].update(id=7), ("category ids occur twice", "7")),
    "category id of text": (lambda c: [x.update(id=x["name"]) for x in c["categories"]], ("'dog'", "whole numbers")),
    "mixed ids": (lambda c: c["images"][1].update(id="x"), ("image", "mix types", "integers")),
    "image without size": (drop("height", "images"), ("image 11", "height")),
    "image of no width": (lambda c: c["images"][1].update(width=0), ("image 11", "11.jpg", "width 0")),
    "no bbox": (drop("bbox"), ("annotation 102", "bbox")),
    "no id": (drop("id"), ("annotation number 1", "id")),
    "captions": (lambda c: c.update(annotations=[{"id": 1, "image_id": 11, "caption": "a"}]), ("captions file",)),
    "panoptic": (lambda c: c.update(annotations=[{"image_id": 11, "segments_info": []}]), ("panoptic file",)),
    "NaN box": (set_annotation(bbox=[1, 2, float("nan"), 4]), ("annotation 102", "image 11", "nan", "[x, y, width")),
    "infinite box": (set_annotation(bbox=[1, 2, float("inf"), 4]), ("annotation 102", "inf")),
    "null in box": (set_annotation(bbox=[1, 2, None, 4]), ("annotation 102", "None", "four finite")),
    "short box": (set_annotation(bbox=[1, 2, 3]), ("annotation 102", "[1, 2, 3]", "four finite")),
    "box of words": (set_annotation(bbox=["1", "two", "3", "4"]), ("annotation 102", "four finite")),
    "flat polygon": (set_annotation(segmentation=[1, 2, 3, 4, 5]), ("annotation 102", "[[x0, y0")),
    "polygon of words": (
        set_annotation(segmentation=[["1.0", "1.0", "9.0", "one", "9.0", "9.0"]]),
        ("tiny.json", "annotation 102", "'one'"),
    ),
    "polygon with a null": (set_annotation(segmentation=[[1, 1, 9, None, 9, 9]]), ("annotation 102", "None")),
    "mask of text": (set_annotation(segmentation="abc"), ("annotation 102", "abc")),
    "infinite polygon": (infinite_polygon, ("annotation 102", "polygon", "infinite")),
    "RLE of another size": (
        set_annotation(segmentation={"size": [40, 30], "counts": [1200]}),
        ("annotation 102", "[40, 30]", "[30, 40]"),
    ),
    "RLE of another length": (set_annotation(segmentation={"size": [30, 40], "counts": [7]}), ("102", "7 pixels")),
    "too few keypoints": (set_annotation(category_id=3, keypoints=[1, 2, 2]), ("annotation 102", "3 keypoints")),
    "odd keypoints": (set_annotation(keypoints=[1, 2, 2, 4]), ("annotation 102", "x, y, visibility")),
    "list as an id": (set_annotation(image_id=[11]), ("annotation 102", "image_id [11]", "3 images")),
    "RLE of text": (
        set_annotation(segmentation={"size": [30, 40], "counts": ["7"]}),
        ("102", "no run-length encoding"),
    ),
    "negative RLE": (
        set_annotation(segmentation={"size": [30, 40], "counts": [1201, -1]}),
        ("102", "no run-length encoding"),
    ),
    "keypoints of text": (set_annotation(category_id=3, keypoints=["1", "2", "2"] * 3), ("annotation 102", "keypoint")),
    "ignore": (set_annotation(ignore=1), ("annotation 102", "iscrowd 1")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_annotations(tiny, case):
    break_it, parts = BROKEN[case]
    break_it(tiny.content)
    with pytest.raises(ValueError) as error:
        tiny.load()
    says(error, "tiny.json", *parts)


def test_all_boxes_useless(tiny):
    for annotation in tiny.content["annotations"]:
        annotation["bbox"] = [100, 100, 5, 5]
    with pytest.raises(ValueError) as error:
        tiny.load()
    says(error, "tiny.json", "annotation 101", "outside their image", "[40, 30]", "pixels")


def test_boxes_as_fractions(tiny):
    for annotation in tiny.content["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(ValueError) as error:
        tiny.load()
    says(error, "tiny.json", "fractions", "Multiply by the image's size")


def test_a_few_useless_annotations_are_left_out_with_one_warning(tiny, caplog):
    make = tiny.annotation
    extra = [make(i, 31, 7) for i in range(200, 206)]
    extra[0]["bbox"] = [10, 5, 0, 10]
    extra[1]["bbox"] = [10, 5, 4, -3]
    extra[2]["bbox"] = [40, 5, 4, 4]
    extra[3]["segmentation"] = [[1, 1, 5, 5]]
    extra[4]["segmentation"] = [[1, 1, 5, 5], [10, 5, 30, 5, 30, 15]]
    extra[5]["bbox"] = [30, 20, 20, 20]  # over the border, which is kept
    tiny.content["annotations"] += extra
    with caplog.at_level(logging.WARNING):
        records = tiny.load()
    kept = {a["id"]: a for a in records[2]["annotations"]}
    assert set(kept) == {204, 205} and len(kept[204]["segmentation"]) == 1
    (warning,) = [record.getMessage() for record in caplog.records]
    for part in (
        "tiny.json",
        "2 boxes of zero or negative size (ids 200, 201)",
        "1 boxes outside their image (ids 202)",
        "1 annotations whose segmentation is four numbers, a box or a line",
        "(ids 203)",
        "1 polygons of fewer than three points",
    ):
        assert part in warning


def test_classes_that_contradict_the_metadata(tiny):
    MetadataCatalog.get("tiny_a").thing_classes = ["cat"]
    with pytest.raises(ValueError) as error:
        tiny.load("tiny_a")
    says(error, "tiny.json", "tiny_a", "thing_classes", "'cat'", "'person'", "name of its own")


# --- images --------------------------------------------------------------------------------------------------------


def mapper(**keys):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.merge_from_list([x for key, value in keys.items() for x in (key.replace("__", "."), value)])
    return DatasetMapper(cfg, True)


def test_missing_image(tiny):
    record = tiny.load("tiny")[0]
    (tiny.image_root / "11.jpg").unlink()
    with pytest.raises(FileNotFoundError) as error:
        mapper()(record)
    says(error, str(tiny.image_root / "11.jpg"), "image id 11", "image_root")


def test_truncated_image(tiny):
    record = tiny.load("tiny")[0]
    path = tiny.image_root / "11.jpg"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError) as error:
        mapper()(record)
    says(error, "11.jpg", "image id 11", "truncated", "again")


def test_file_that_is_no_image(tiny):
    record = tiny.load("tiny")[0]
    (tiny.image_root / "11.jpg").write_text("<html>")
    with pytest.raises(ValueError) as error:
        mapper()(record)
    says(error, "11.jpg", "image id 11", "cannot be read")


def test_image_of_another_size(tiny):
    record = tiny.load("tiny")[0]
    Image.fromarray(np.zeros((30, 50, 3), dtype=np.uint8)).save(tiny.image_root / "11.jpg")
    with pytest.raises(ValueError) as error:
        mapper()(record)
    says(error, "11.jpg", "50 x 30", "40 x 30", "another version")
    assert "EXIF" not in str(error.value)


def test_image_on_its_side(tiny):
    record = tiny.load("tiny")[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tiny.image_root / "11.jpg", exif=exif)
    with pytest.raises(ValueError) as error:
        mapper()(record)
    says(error, "11.jpg", "30 x 40", "40 x 30", "EXIF orientation 6", "exiftool")


def test_annotation_that_breaks(tiny):
    record = tiny.load("tiny")[0]
    record["annotations"][1]["segmentation"] = "not a mask"
    with pytest.raises(ValueError) as error:
        mapper(MODEL__MASK_ON=True)(record)
    says(error, "11.jpg", "annotation 102", "segmentation")


def test_annotation_without_its_mask(tiny):
    record = tiny.load("tiny")[0]
    del record["annotations"][1]["segmentation"]
    with pytest.raises(ValueError) as error:
        mapper(MODEL__MASK_ON=True)(record)
    says(error, "11.jpg", "annotation 102", "no segmentation")


def test_annotation_with_a_bad_box(tiny):
    record = tiny.load("tiny")[0]
    record["annotations"][1]["bbox"] = [1, 2, 3]
    with pytest.raises(ValueError) as error:
        mapper()(record)
    says(error, "11.jpg", "annotation 102")


def test_good_records_pass(tiny):
    tiny.register()
    cfg = config("MODEL.MASK_ON", True)
    check_datasets(cfg)
    out = DatasetMapper(cfg, True)(DatasetCatalog.get("tiny")[0])
    assert len(out["instances"]) == 2 and out["instances"].has("gt_masks")


# --- data sets against the config ----------------------------------------------------------------------------------


def config(*options):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    cfg.merge_from_list(list(options))
    return cfg


def persons_only(tiny):
    tiny.content["categories"] = tiny.content["categories"][1:]
    tiny.content["annotations"] = [a for a in tiny.content["annotations"] if a["category_id"] == 3]
    return ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", 1)


def refused(tiny, *options, train=True):
    tiny.register()
    with pytest.raises(ValueError) as error:
        check_datasets(config(*options), train=train)
    return error


def test_unknown_name(tiny):
    says(refused(tiny, "DATASETS.TEST", ("coco_2017_vall",)), "coco_2017_vall", "'coco_2017_val'", "register_coco")


def test_no_training_set(tiny):
    says(refused(tiny, "DATASETS.TRAIN", ()), "DATASETS.TRAIN")
    check_datasets(config("DATASETS.TRAIN", ()), train=False)


def test_number_of_classes(tiny):
    error = refused(tiny, "MODEL.ROI_HEADS.NUM_CLASSES", 80)
    says(error, "MODEL.ROI_HEADS.NUM_CLASSES is 80", "2 classes", "person, dog", "Set MODEL.ROI_HEADS.NUM_CLASSES 2")
    check_datasets(config("MODEL.ROI_HEADS.NUM_CLASSES", 80, "MODEL.META_ARCHITECTURE", "ProposalNetwork"))


def test_category_beyond_the_classes(tiny):
    records = tiny.load("tiny_a")
    records[1]["annotations"][0]["category_id"] = 2
    DatasetCatalog.register("tiny_a", lambda: records)
    says(refused(tiny, "DATASETS.TRAIN", ("tiny_a",)), "annotation 103", "21.jpg", "category_id 2", "0 to 1")


@pytest.mark.parametrize("train", [True, False])
def test_masks_wanted_and_missing(tiny, train):
    del tiny.content["annotations"][2]["segmentation"]
    error = refused(tiny, "MODEL.MASK_ON", True, train=train)
    says(error, "MODEL.MASK_ON", "annotation 103", "21.jpg", "MODEL.MASK_ON False")


def test_rle_masks_as_polygons(tiny):
    tiny.content["annotations"][2]["segmentation"] = {"size": [30, 40], "counts": [600, 600]}
    says(refused(tiny, "MODEL.MASK_ON", True), "annotation 103", "INPUT.MASK_FORMAT bitmask")
    check_datasets(config("MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"))


def test_keypoints_wanted_and_missing(tiny):
    options = persons_only(tiny)
    del tiny.content["annotations"][1]["keypoints"]
    says(refused(tiny, *options), "annotation 103", "21.jpg", "MODEL.KEYPOINT_ON False")


def test_number_of_keypoints(tiny):
    error = refused(tiny, *persons_only(tiny), "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17)
    says(error, "NUM_KEYPOINTS is 17", "annotation 101", "NUM_KEYPOINTS 3")


def test_keypoints_without_sides(tiny):
    options = persons_only(tiny)
    tiny.content["categories"][0]["keypoints"] = ["a", "b", "c"]
    says(refused(tiny, *options), "tiny", "keypoint_flip_map", "left_", "mirror")
    MetadataCatalog.get("tiny").keypoint_flip_map = ()
    check_datasets(config(*options))


def test_nothing_to_train_on(tiny):
    tiny.content["annotations"] = [{**a, "iscrowd": 1} for a in tiny.content["annotations"]]
    says(refused(tiny), "tiny", "3 images", "DATALOADER.FILTER_EMPTY_ANNOTATIONS False")
    check_datasets(config("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False))
    check_datasets(config(), train=False)


def test_too_few_keypoints_in_every_image(tiny):
    error = refused(tiny, *persons_only(tiny), "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 3)
    says(error, "tiny", "at least 3", "MIN_KEYPOINTS_PER_IMAGE")


def test_registered_but_no_images(tiny):
    DatasetCatalog.register("tiny_empty", list)
    says(refused(tiny, "DATASETS.TEST", ("tiny_empty",)), "tiny_empty", "no images")
