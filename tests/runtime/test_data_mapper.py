"""Reading images and turning annotations into instances."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from densekit.d2.data import DatasetMapper, MetadataCatalog
from densekit.d2.data import detection_utils as U
from densekit.d2.data import transforms as T
from densekit.d2.structures import BoxMode


def save(path, array, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return str(path)


# What a camera that was held so must have done to the upright picture.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_read_upright(tmp_path, orientation):
    upright = np.random.randint(0, 255, (6, 9, 3), dtype=np.uint8)
    stored = np.ascontiguousarray(TURNS[orientation](upright))
    name = save(tmp_path / "a.png", stored, orientation)
    np.testing.assert_array_equal(U.read_image(name, "RGB"), upright)


def test_formats(tmp_path):
    image = np.random.randint(0, 255, (4, 5, 3), dtype=np.uint8)
    name = save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(U.read_image(name, "BGR"), image[..., ::-1])
    assert U.read_image(name, "L").shape == (4, 5, 1)
    for kind in ("RGB", "BGR", "YUV-BT.601"):
        back = U.convert_image_to_rgb(U.read_image(name, kind), kind)
        np.testing.assert_allclose(back, image, atol=1)
    assert (U.convert_image_to_rgb(U.read_image(name, "L"), "L").std(axis=2) == 0).all()
    grey = save(tmp_path / "b.png", image[..., 0])
    np.testing.assert_array_equal(U.read_image(grey, "BGR")[..., 1], image[..., 0])


def test_size_check():
    record = {"file_name": "f.jpg"}
    U.check_image_size(record, np.zeros((4, 6, 3)))
    assert record["width"] == 6 and record["height"] == 4
    with pytest.raises(U.SizeMismatchError, match=r"f\.jpg"):
        U.check_image_size({"file_name": "f.jpg", "width": 4, "height": 6}, np.zeros((4, 6, 3)))


def annotation(**more):
    return {"bbox": [10.0, 5.0, 20.0, 10.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, **more}


def test_boxes_are_moved_and_clipped():
    moved = U.transform_instance_annotations(
        annotation(bbox=[30.0, 5.0, 20.0, 10.0]), T.TransformList([T.HFlipTransform(40)]), (30, 40)
    )
    np.testing.assert_allclose(moved["bbox"], [0, 5, 10, 15])  # -10 without clipping
    assert moved["bbox_mode"] == BoxMode.XYXY_ABS


def test_keypoints_change_sides_and_vanish_outside():
    points = [12.0, 6.0, 2, 25.0, 12.0, 1, 0.0, 0.0, 0, 39.0, 29.0, 2]  # nose, left, right, foot
    flip = T.TransformList([T.HFlipTransform(40)])
    moved = U.transform_keypoint_annotations(points, flip, (30, 40), [0, 2, 1, 3])
    np.testing.assert_allclose(moved, [[28, 6, 2], [0, 0, 0], [15, 12, 1], [1, 29, 2]])
    back = U.transform_keypoint_annotations(moved, flip, (30, 40), [0, 2, 1, 3])
    np.testing.assert_allclose(back.ravel(), points)
    crop = T.TransformList([T.CropTransform(0, 0, 20, 20)])
    np.testing.assert_allclose(U.transform_keypoint_annotations(points, crop, (20, 20))[[1, 3]], 0)
    with pytest.raises(ValueError, match=r"flip|3"):
        U.transform_keypoint_annotations(points, flip, (30, 40), [0, 1, 2])


def test_flip_indices_come_from_metadata():
    metadata = {"keypoint_names": ["nose", "left_eye", "right_eye"], "keypoint_flip_map": [("left_eye", "right_eye")]}
    MetadataCatalog.get("points_a").set(**metadata)
    assert list(U.create_keypoint_hflip_indices(["points_a"])) == [0, 2, 1]
    MetadataCatalog.get("points_b").set(keypoint_names=["a"], keypoint_flip_map=[])
    with pytest.raises(ValueError, match="keypoint"):
        U.create_keypoint_hflip_indices(["points_a", "points_b"])


SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]


def test_masks_in_both_formats_agree():
    flip = T.TransformList([T.HFlipTransform(40)])
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[5:15, 10:30] = 1
    given = {"polygon": [SQUARE], "rle": mask_util.encode(mask)}
    found = {}
    for kind, segmentation in given.items():
        moved = U.transform_instance_annotations(annotation(segmentation=segmentation), flip, (30, 40))
        found[kind] = U.annotations_to_instances([moved], (30, 40), "bitmask").gt_masks.tensor
    expected = torch.from_numpy(mask[:, ::-1].copy()).bool()
    assert torch.equal(found["rle"][0], expected)
    assert torch.equal(found["polygon"][0], expected)


def test_polygon_format_refuses_rle():
    mask = np.ones((30, 40), dtype=np.uint8, order="F")
    with pytest.raises(ValueError, match="polygon"):
        U.annotations_to_instances([annotation(segmentation=mask_util.encode(mask))], (30, 40), "polygon")


def test_no_annotations_make_empty_instances():
    empty = U.annotations_to_instances([], (30, 40))
    assert len(empty) == 0 and empty.gt_boxes.tensor.shape == (0, 4)
    assert len(U.filter_empty_instances(empty)) == 0


def test_empty_instances_are_dropped():
    boxes = [annotation(bbox=[1.0, 1.0, 5.0, 5.0]), annotation(bbox=[1.0, 1.0, 0.0, 5.0])]
    kept, mask = U.filter_empty_instances(U.annotations_to_instances(boxes, (30, 40)), return_mask=True)
    assert mask.tolist() == [True, False] and len(kept) == 1


def test_crop_holds_the_centre():
    for _ in range(50):
        crop = U.gen_crop_transform_with_instance((8, 8), (30, 40), annotation())
        x, y = crop.apply_coords(np.array([[20.0, 10.0]]))[0]
        assert 0 <= x <= 8 and 0 <= y <= 8
        assert crop.apply_image(np.zeros((30, 40, 3))).shape == (8, 8, 3)


def mapper(**options):
    given = {"is_train": True, "augmentations": [T.Resize((60, 80)), T.HFlipTransform(80)], "image_format": "BGR"}
    return DatasetMapper(**{**given, **options})


@pytest.fixture
def record(tmp_path):
    image = np.random.randint(0, 255, (30, 40, 3), dtype=np.uint8)
    labels = save(tmp_path / "labels.png", np.eye(30, 40, dtype=np.uint8) * 7)
    crowd = annotation(iscrowd=1, segmentation=[SQUARE])
    return {
        "file_name": save(tmp_path / "a.png", image),
        "sem_seg_file_name": labels,
        "height": 30,
        "width": 40,
        "annotations": [annotation(segmentation=[SQUARE], keypoints=[12.0, 6.0, 2.0]), crowd],
    }


def test_mapper_moves_everything_together(record):
    out = mapper(use_instance_mask=True, use_keypoint=True, keypoint_hflip_indices=[0])(record)
    assert out["image"].shape == (3, 60, 80) and out["image"].dtype == torch.uint8
    assert out["height"] == 30 and out["width"] == 40  # of the file
    assert out["sem_seg"].shape == (60, 80) and set(out["sem_seg"].unique().tolist()) == {0, 7}
    assert out["sem_seg"].dtype == torch.int64
    instances = out["instances"]
    assert len(instances) == 1 and instances.gt_classes.tolist() == [1]  # no crowd
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[20.0, 10.0, 60.0, 30.0]]))
    np.testing.assert_allclose(instances.gt_masks.polygons[0][0].reshape(-1, 2)[0], [60, 10])
    np.testing.assert_allclose(instances.gt_keypoints.tensor[0, 0], [56, 12, 2])
    assert len(record["annotations"]) == 2 and record["annotations"][0]["bbox"] == [10.0, 5.0, 20.0, 10.0]


def test_mapper_takes_only_what_is_asked_for(record):
    assert set(mapper()(record)["instances"].get_fields()) == {"gt_boxes", "gt_classes"}
    out = mapper(is_train=False)(record)
    assert "instances" not in out and "annotations" not in out
    record["annotations"] = []
    assert len(mapper(use_instance_mask=True)(record)["instances"]) == 0


def test_boxes_follow_cut_masks(record):
    """The left part of a triangle is lower than the whole; the box follows."""
    triangle = [10.0, 15.0, 30.0, 15.0, 30.0, 5.0]
    mask = mask_util.merge(mask_util.frPyObjects([triangle], 30, 40))
    record["annotations"] = [annotation(segmentation=mask)]
    crop = {"augmentations": [T.CropTransform(0, 0, 20, 30)], "use_instance_mask": True}
    kept = mapper(instance_mask_format="bitmask", **crop)(record)["instances"].gt_boxes.tensor[0]
    cut = mapper(instance_mask_format="bitmask", recompute_boxes=True, **crop)(record)["instances"].gt_boxes.tensor[0]
    assert kept[1] == 5 and cut[1] >= 10 and cut[3] == 15


def test_precomputed_proposals_are_moved(record):
    boxes = np.array([[10, 5, 30, 15], [0, 0, 40, 30], [3, 3, 3, 9]], dtype=np.float32)
    record.update(
        proposal_boxes=boxes,
        proposal_objectness_logits=np.array([3.0, 2.0, 1.0], dtype=np.float32),
        proposal_bbox_mode=BoxMode.XYXY_ABS,
    )
    proposals = mapper(precomputed_proposal_topk=5)(record)["proposals"]
    assert proposals.objectness_logits.tolist() == [3.0, 2.0]  # the flat one is dropped
    torch.testing.assert_close(proposals.proposal_boxes.tensor[0], torch.tensor([20.0, 10.0, 60.0, 30.0]))
    assert len(mapper(precomputed_proposal_topk=1)(record)["proposals"]) == 1
