"""COCO panoptic data: against COCO's own conversion to objects, in both forms, and broken in each way."""

import json
import shutil

import numpy as np
import pycocotools.mask as mask_util
import pytest

from densekit.d2.data import MetadataCatalog
from densekit.data.coco_meta import coco_panoptic_metadata, coco_separated_metadata
from densekit.data.labels import load_sem_seg, read_values
from densekit.data.panoptic import load_coco_panoptic, load_coco_panoptic_separated, load_coco_stuff


@pytest.fixture
def sample(shared_data_dir):
    return shared_data_dir / "coco_panoptic_sample"


def paths(folder):
    annotations = folder / "annotations"
    return (str(annotations / "panoptic_val2017.json"), str(folder / "val2017"), str(annotations / "panoptic_val2017"))


def test_standard_form(sample):
    records = load_coco_panoptic(*paths(sample), "coco_2017_val_panoptic")
    file = json.loads((sample / "annotations" / "panoptic_val2017.json").read_text())
    names = {category["id"]: category["name"] for category in file["categories"]}
    classes = coco_panoptic_metadata()["stuff_classes"]
    assert len(classes) == 133 and len(records) == len(file["annotations"])
    for record in records:
        (annotation,) = (a for a in file["annotations"] if a["image_id"] == record["image_id"])
        ids = read_values(record["pan_seg_file_name"])
        for segment, original in zip(record["segments_info"], annotation["segments_info"]):
            assert classes[segment["category_id"]] == names[original["category_id"]]
            assert segment["isthing"] == (segment["category_id"] < 80)
            assert (ids == segment["id"]).sum() == original["area"]


def test_objects_outlined_from_the_png_are_those_of_cocos_conversion(sample):
    records = load_coco_panoptic_separated(*paths(sample), "sample")
    metadata = MetadataCatalog.get("sample")
    official = json.loads((sample / "annotations" / "panoptic_as_detection_val2017.json").read_text())
    for record in records:
        found = record["annotations"]
        index = metadata.thing_dataset_id_to_contiguous_id
        wanted = [
            a for a in official["annotations"] if a["image_id"] == record["image_id"] and a["category_id"] in index
        ]
        assert len(found) == len(wanted)
        shape = record["height"], record["width"]
        for annotation in wanted:
            mask = mask_util.decode(mask_util.frPyObjects(annotation["segmentation"], *shape)
                                    if isinstance(annotation["segmentation"]["counts"], list)
                                    else annotation["segmentation"]).astype(bool)  # fmt: skip
            x, y, w, h = annotation["bbox"]
            (mine,) = (a for a in found if a["bbox"] == [x, y, x + w, y + h] and a["area"] == mask.sum())
            assert mine["category_id"] == index[annotation["category_id"]]
            assert mine["iscrowd"] == annotation["iscrowd"]
            drawn = mask_util.decode(mask_util.merge(mask_util.frPyObjects(mine["segmentation"], *shape)))
            assert (drawn.astype(bool) & mask).sum() / (drawn.astype(bool) | mask).sum() > 0.9


def test_label_maps_of_the_separated_form(sample):
    records = load_coco_panoptic_separated(*paths(sample), "coco_2017_val_panoptic_separated")
    only = load_coco_stuff(*paths(sample), "coco_2017_val_panoptic_stuffonly", "nowhere")
    file = json.loads((sample / "annotations" / "panoptic_val2017.json").read_text())
    numbers = coco_separated_metadata()["stuff_dataset_id_to_contiguous_id"]
    for record, stuff in zip(records, only):
        (annotation,) = (a for a in file["annotations"] if a["image_id"] == record["image_id"])
        ids = read_values(record["sem_seg_file_name"])
        expected = np.full(ids.shape, 255)
        for segment in annotation["segments_info"]:
            expected[ids == segment["id"]] = numbers.get(segment["category_id"], 0)
        assert 0 < (expected == 0).mean() < 1 and expected[expected < 255].max() <= 53
        np.testing.assert_array_equal(load_sem_seg(record), expected)
        np.testing.assert_array_equal(load_sem_seg(stuff), expected)


def test_maps_that_have_been_made_are_used(sample, tmp_path):
    from PIL import Image

    for number, record in enumerate(load_coco_panoptic_separated(*paths(sample), "sample")):
        made = np.full((record["height"], record["width"]), number, dtype=np.uint8)
        Image.fromarray(made).save(tmp_path / record["sem_seg_file_name"].rsplit("/", 1)[1])
    records = load_coco_panoptic_separated(*paths(sample), "sample", None, str(tmp_path))
    assert [int(load_sem_seg(record).max()) for record in records] == [0, 1]
    only = load_coco_stuff(*paths(sample), "sample", str(tmp_path))
    assert [record["sem_seg_file_name"] for record in only] == [record["sem_seg_file_name"] for record in records]


def test_both_forms_of_the_streets_agree(streets):
    files = (str(streets / "annotations" / "panoptic_train.json"), str(streets / "train"))
    root = str(streets / "annotations" / "panoptic_train")
    outlined = load_coco_panoptic_separated(*files, root, "outlined")
    given = load_coco_panoptic_separated(*files, root, "given", str(streets / "annotations" / "instances_train.json"))
    for a, b in zip(outlined, given):
        assert a["file_name"] == b["file_name"]
        boxes = [sorted(tuple(x["bbox"]) for x in r["annotations"]) for r in (a, b)]
        assert boxes[0] == [(x, y, x + w, y + h) for x, y, w, h in boxes[1]] or len(boxes[0]) == len(boxes[1])
        np.testing.assert_array_equal(load_sem_seg(a), load_sem_seg(b))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("images"), "no list images"),
        (lambda c: c["annotations"].clear(), "no annotations"),
        (lambda c: c["annotations"][0].pop("segments_info"), "has no segments_info"),
        (lambda c: c["annotations"][0].update(segments_info=None), "has no segments_info"),
        (lambda c: c["annotations"][0].update(segments_info=[5]), "segments_info that is no list of objects"),
        (lambda c: c["annotations"][0].update(image_id=[1]), r"of image \[1\], which 'images' does not list"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 4]) or c["annotations"][0].pop("file_name"), "form coco"),
        (lambda c: c["annotations"][0].update(image_id=5), "image 5, which 'images' does not list"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "two annotations"),
        (lambda c: c["annotations"][0].update(file_name="../../x.png"), r"leads out of the folder"),
        (lambda c: c["images"][0].update(file_name="../x.png"), r"leads out of the folder"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), "segment with id 0"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=999), "category_id 999"),
        (lambda c: c["categories"].append(c["categories"][0]), "1 category ids occur twice"),
    ],
)
def test_broken_files_name_themselves(streets, tmp_path, change, says):
    content = json.loads((streets / "annotations" / "panoptic_train.json").read_text())
    change(content)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says) as caught:
        load_coco_panoptic_separated(str(broken), str(streets / "train"), "unused", "broken")
    assert "broken.json" in str(caught.value)


def test_classes_that_contradict_the_metadata(streets):
    MetadataCatalog.get("other").set(
        thing_dataset_id_to_contiguous_id={24: 0}, stuff_dataset_id_to_contiguous_id={7: 1, 0: 0}
    )
    annotations = streets / "annotations"
    with pytest.raises(ValueError, match=r"panoptic_train\.json contradicts .*'other'.*'sidewalk'"):
        load_coco_panoptic_separated(str(annotations / "panoptic_train.json"), "x", "y", "other")


def test_a_png_of_another_size(streets, tmp_path):
    from PIL import Image

    shutil.copytree(streets / "annotations", tmp_path / "annotations")
    victim = tmp_path / "annotations" / "panoptic_train" / "000001.png"
    Image.new("RGB", (5, 4)).save(victim)
    files = (str(tmp_path / "annotations" / "panoptic_train.json"), str(streets / "train"), str(victim.parent))
    with pytest.raises(ValueError, match=r"000001\.png is 5 x 4 .* 256 x 128"):
        load_coco_panoptic_separated(*files, "small")
