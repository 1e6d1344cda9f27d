"""Cityscapes trees as records: the pixels, the crowd rule, the two ways to name label maps, and what can be missing."""

import os
import shutil

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from cityscapesscripts.helpers.labels import id2label, labels
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.cityscapes import instance_annotations, load_cityscapes_instances, load_cityscapes_semantic
from densekit.data.cityscapes_panoptic import load_cityscapes_panoptic, load_cityscapes_panoptic_separated
from densekit.data.labels import load_sem_seg


@pytest.fixture
def tree(streets, tmp_path):
    shutil.copytree(streets / "cityscapes", tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


def folders(tree, split="train"):
    return str(tree / "leftImg8bit" / split), str(tree / "gtFine" / split)


def stored(record, kind):
    path = record["file_name"].replace("leftImg8bit/", "gtFine/").replace("_leftImg8bit", f"_gtFine_{kind}")
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)


def drawn(annotation, shape):
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], *shape))).astype(bool)


def test_instances_have_the_pixels_the_benchmark_counts(tree):
    records = load_cityscapes_instances(*folders(tree))
    assert len(records) == 3 and any(record["annotations"] for record in records)
    for record in records:
        ids = stored(record, "instanceIds")
        assert ids.shape == (record["height"], record["width"])
        assert record["image_id"] == os.path.basename(record["file_name"])
        wanted = {i for i in np.unique(ids).tolist() if id2label[i if i < 1000 else i // 1000].hasInstances}
        assert len(record["annotations"]) == len(wanted)
        for annotation, instance in zip(record["annotations"], sorted(wanted)):
            mask = ids == instance
            label = instance // 1000 if instance >= 1000 else instance
            assert [24, 25, 26, 27, 28, 31, 32, 33][annotation["category_id"]] == label
            assert annotation["iscrowd"] == (instance < 1000) and annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert annotation["bbox"] == box
            overlap = drawn(annotation, mask.shape)
            assert (overlap & mask).sum() / (overlap | mask).sum() > 0.9


def test_objects_with_holes_and_in_parts(tmp_path):
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[5:25, 5:30] = 26001
    ids[10:20, 10:20] = 7  # a hole
    ids[30:38, 40:55] = 26001  # a second part
    ids[0:4, 50:60] = 24
    car, crowd = sorted(instance_annotations("x.png", ids), key=lambda a: a["category_id"], reverse=True)
    np.testing.assert_array_equal(drawn(car, ids.shape), ids == 26001)
    assert car["bbox"] == [5, 5, 55, 38] and not car["iscrowd"] and crowd["iscrowd"]
    with pytest.raises(ValueError, match=r"x\.png has the instance id 99000"):
        instance_annotations("x.png", np.full((4, 4), 99000))


def test_label_maps_are_the_same_with_and_without_preparation(tree):
    from_ids = [load_sem_seg(record) for record in load_cityscapes_semantic(*folders(tree))]
    table = np.full(256, 255, dtype=np.uint8)
    for label in labels:
        if label.id >= 0 and label.trainId >= 0:
            table[label.id] = label.trainId
    for path in tree.rglob("*_labelIds.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(str(path).replace("labelIds", "labelTrainIds"))
    made = load_cityscapes_semantic(*folders(tree))
    for record, expected in zip(made, from_ids):
        assert record["sem_seg_file_name"].endswith("_labelTrainIds.png") and "sem_seg_values" not in record
        assert set(np.unique(expected)) <= {*range(19), 255}
        np.testing.assert_array_equal(load_sem_seg(record), expected)
        assert (record["height"], record["width"]) == expected.shape


def test_separated_labels_join_the_things(tree):
    joined = load_cityscapes_panoptic_separated(*folders(tree))
    whole = load_cityscapes_semantic(*folders(tree))
    for record, plain in zip(joined, whole):
        assert record["image_id"] == "_".join(os.path.basename(plain["file_name"]).split("_")[:3])
        separated, train_ids = load_sem_seg(record), load_sem_seg(plain)
        np.testing.assert_array_equal(separated == 255, train_ids == 255)
        np.testing.assert_array_equal(separated == 0, (train_ids >= 11) & (train_ids < 19))
        np.testing.assert_array_equal(separated[separated > 0], (train_ids + 1)[separated > 0])


def test_panoptic_files_that_are_not_made_yet_name_the_command(tree):
    images, gt = folders(tree)
    with pytest.raises(FileNotFoundError, match=r"prepare_cityscapes\.py --root .*cityscapes"):
        load_cityscapes_panoptic(images, f"{tree}/gtFine/p", f"{tree}/gtFine/p.json", gt)


@pytest.mark.parametrize(
    ("kind", "load"),
    [("instanceIds", load_cityscapes_instances), ("labelIds", load_cityscapes_semantic)],
)
def test_missing_files_and_folders(tree, kind, load):
    victim = next((tree / "gtFine" / "train").rglob(f"*_{kind}.png"))
    victim.unlink()
    with pytest.raises(FileNotFoundError, match=victim.name):
        load(*folders(tree))
    with pytest.raises(FileNotFoundError, match="leftImg8bit/nowhere does not exist"):
        load(*folders(tree, "nowhere"))
    (tree / "leftImg8bit" / "empty").mkdir()
    (tree / "gtFine" / "empty").mkdir()
    with pytest.raises(ValueError, match="leftImg8bit/empty has no"):
        load(*folders(tree, "empty"))


def test_labels_of_another_size(tree):
    victim = next((tree / "gtFine" / "train").rglob("*_instanceIds.png"))
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(victim)
    with pytest.raises(ValueError, match=f"{victim.name} and its image .* different sizes"):
        load_cityscapes_instances(*folders(tree))


def test_the_standard_names_are_registered_and_ours():
    from densekit.data import builtin
    from densekit.data.registry import is_ours

    for name, kind, classes in (
        ("cityscapes_fine_instance_seg_train", "cityscapes_instance", (8, 19)),
        ("cityscapes_fine_sem_seg_test", "cityscapes_sem_seg", (8, 19)),
        ("cityscapes_fine_panoptic_val", "cityscapes_panoptic_seg", (19, 19)),
        ("cityscapes_fine_panoptic_val_separated", "cityscapes_panoptic_seg", (8, 12)),
        ("cityscapes_coarse_sem_seg_train_extra", "cityscapes_sem_seg", (8, 19)),
    ):
        metadata = MetadataCatalog.get(name)
        assert is_ours(DatasetCatalog[name]) and metadata.evaluator_type == kind
        assert (len(metadata.thing_classes), len(metadata.stuff_classes)) == classes
    metadata = MetadataCatalog.get("cityscapes_coarse_sem_seg_train_extra")
    assert metadata.gt_dir == os.path.join(builtin.datasets_root(), "cityscapes/gtCoarse/train_extra/")
