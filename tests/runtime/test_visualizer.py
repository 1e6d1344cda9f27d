"""Pictures: what is drawn lies where it should, in the colours it should."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from densekit.runtime.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints, PolygonMasks
from densekit.runtime.utils.canvas import label_size
from densekit.runtime.utils.colormap import colormap, random_color
from densekit.runtime.utils.visualizer import ColorMode, VisImage, Visualizer

GREY = np.full((60, 80, 3), 100, dtype=np.uint8)
META = {"thing_classes": ["cat", "dog"], "thing_colors": [[255, 0, 0], [0, 0, 255]]}


def changed(picture: VisImage, background: int = 100) -> np.ndarray:
    return (picture.get_image() != background).any(axis=2)


class TestColormap:
    def test_order_and_range(self):
        assert np.array_equal(colormap(rgb=True)[:, ::-1], colormap(rgb=False))
        np.testing.assert_allclose(colormap(maximum=1) * 255, colormap(), rtol=1e-6)
        assert colormap().min() >= 0 and colormap().max() <= 255
        assert random_color(rgb=True, maximum=1).tolist() in colormap(rgb=True, maximum=1).tolist()
        with pytest.raises(ValueError):
            colormap(maximum=100)

    def test_colours_that_come_together_are_far_apart(self):
        colors = colormap(rgb=True)
        for step in range(1, 5):
            assert np.linalg.norm(colors[step:] - colors[:-step], axis=1).min() > 40

    def test_no_two_are_equal(self):
        assert len({tuple(color) for color in colormap().round().tolist()}) == len(colormap())


class TestPrimitives:
    def test_box_is_on_its_pixels(self):
        out = Visualizer(GREY).draw_box((10, 5, 40, 30), alpha=1.0, edge_color="r")
        drawn = changed(out)
        assert drawn[5, 10:40].all() and drawn[5:30, 10].all() and not drawn[8:27, 13:37].any()
        assert out.get_image()[5, 20].tolist() == [255, 0, 0]
        assert not drawn[:3].any() and not drawn[35:].any()

    def test_mask_is_tinted_inside_only(self):
        mask = np.zeros((60, 80), dtype=bool)
        mask[10:30, 20:50] = True
        out = Visualizer(GREY).draw_binary_mask(mask, color=(1.0, 0.0, 0.0), alpha=0.5)
        assert abs(out.get_image()[20, 35].astype(int) - [178, 50, 50]).max() <= 1
        drawn = changed(out)
        drawn[8:32, 18:52] = False  # the outline may reach two pixels beyond the mask
        assert not drawn.any()

    def test_empty_mask_draws_nothing(self):
        assert not changed(Visualizer(GREY).draw_binary_mask(np.zeros((60, 80), dtype=bool), text="x")).any()

    def test_line_disc_and_polygon(self):
        vis = Visualizer(GREY)
        vis.draw_line([10, 70], [10, 10], "b", linewidth=3)
        vis.draw_circle((40, 40), "g", radius=5)
        vis.draw_polygon(np.array([[5, 45], [20, 45], [20, 58], [5, 58]]), "y", alpha=1.0)
        image = vis.get_output().get_image()
        assert image[10, 40].tolist() == [0, 0, 255] and image[40, 40].tolist() == [0, 128, 0]
        assert image[50, 12].tolist() == [255, 255, 0]
        disc = (100 - image[30:50, 30:50, 0].astype(float)).sum() / 100  # pixels, partly covered ones in part
        assert abs(disc - np.pi * 25) < 15

    def test_text_is_placed(self):
        out = Visualizer(GREY).draw_text("hi", (40, 20), horizontal_alignment="left", color="w")
        y, x = np.nonzero(changed(out))
        assert y.min() >= 20 and x.min() >= 40 and x.max() < 40 + label_size("hi", 11)[0]
        with pytest.raises(ValueError):
            Visualizer(GREY).draw_text("hi", (1, 1), horizontal_alignment="middle")

    def test_everything_may_leave_the_image(self):
        vis = Visualizer(GREY)
        vis.draw_box((-30, -30, 200, 200), alpha=1.0)
        vis.draw_box((300, 300, 400, 400))
        vis.draw_circle((-20, -20), "r", radius=5)
        vis.draw_circle((80, 60), "r", radius=500)
        vis.draw_line([-1e4, 1e4], [-5, 70], "r")
        vis.draw_text("far away", (500, -300))
        vis.draw_polygon(np.array([[-50, -50], [500, 20], [30, 400]]), "c")
        assert vis.get_output().get_image().shape == GREY.shape

    def test_bad_colour(self):
        with pytest.raises(ValueError):
            Visualizer(GREY).draw_box((1, 1, 5, 5), edge_color="no such colour")
        with pytest.raises(ValueError):
            Visualizer(GREY).draw_box((1, 1, 5, 5), edge_color=(255, 0, 0))

    @pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
    def test_scale(self, scale):
        mask = np.zeros((60, 80), dtype=bool)
        mask[10:30, 20:50] = True
        out = Visualizer(GREY, scale=scale).draw_binary_mask(mask, color="w", alpha=1.0)
        image = out.get_image()
        assert image.shape == (round(60 * scale), round(80 * scale), 3)
        filled = (image > 200).all(axis=2).sum() / scale**2
        assert filled == pytest.approx(20 * 30, rel=0.2)

    def test_input_image_is_not_touched(self):
        image = GREY.copy()
        Visualizer(image).draw_box((0, 0, 80, 60), alpha=1.0)
        assert np.array_equal(image, GREY)


class TestSave:
    def test_round_trip_and_no_leftovers(self, tmp_path):
        out = Visualizer(GREY).draw_box((10, 5, 40, 30))
        out.save(tmp_path / "a.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), out.get_image())
        out.save(str(tmp_path / "b.jpg"))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.jpg"]

    def test_unknown_format(self, tmp_path):
        with pytest.raises(ValueError, match="xyz"):
            VisImage(GREY).save(tmp_path / "a.xyz")
        assert not list(tmp_path.iterdir())


def predictions() -> Instances:
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 25:55, 5:35] = True
    masks[1, 25:55, 45:75] = True
    return Instances(
        (60, 80),
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        scores=torch.tensor([0.9, 0.8]),
        pred_classes=torch.tensor([0, 1]),
        pred_masks=masks,
    )


class TestInstances:
    def test_segmentation_mode_uses_the_colours_of_the_data_set(self):
        vis = Visualizer(GREY, META, instance_mode=ColorMode.SEGMENTATION)
        image = vis.draw_instance_predictions(predictions(), jittering=False).get_image()
        assert image[50, 20].argmax() == 0 and image[50, 60].argmax() == 2

    def test_image_mode_tells_objects_of_a_class_apart(self):
        both = predictions()
        both.pred_classes = torch.tensor([0, 0])
        image = Visualizer(GREY, META).draw_instance_predictions(both).get_image().astype(int)
        assert abs(image[50, 20] - image[50, 60]).max() > 30

    def test_bw_mode_greys_the_rest(self):
        coloured = np.zeros((60, 80, 3), dtype=np.uint8)
        coloured[..., 0] = 200
        vis = Visualizer(coloured, META, instance_mode=ColorMode.IMAGE_BW)
        image = vis.draw_instance_predictions(predictions()).get_image()
        assert len(set(image[58, 40].tolist())) == 1 and image[50, 20, 0] > image[50, 20, 1]

    def test_labels_name_class_and_score(self):
        vis = Visualizer(GREY, META)
        assert vis._instance_labels([1, 0], [0.876, 0.5], None) == ["dog 88%", "cat 50%"]
        assert vis._instance_labels([1, 7], None, [True, False]) == ["dog (crowd)", "7"]
        assert Visualizer(GREY)._instance_labels([3], None) == ["3"]

    def test_labels_do_not_cover_each_other(self):
        vis = Visualizer(np.full((300, 300, 3), 90, np.uint8))
        boxes = np.array([[100, 100, 180, 180]] * 4, dtype=float)
        vis.overlay_instances(boxes=boxes, labels=["one", "two", "three", "four"])
        plates = vis._occupied
        assert len(plates) == 4
        for i, a in enumerate(plates):
            for b in plates[:i]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]

    def test_kinds_of_masks_agree(self):
        polygon = [20.0, 10, 60, 10, 60, 40, 20, 40]
        bitmap = np.zeros((60, 80), dtype=np.uint8)
        bitmap[10:40, 20:60] = 1
        rle = mask_util.encode(np.asfortranarray(bitmap))
        counts = {"size": [60, 80], "counts": [20 * 60 + 10, *[30, 30] * 39, 30, 20 * 60 + 20]}
        kinds = [
            PolygonMasks([[polygon]]), BitMasks(bitmap[None]), torch.from_numpy(bitmap)[None],
            [bitmap], [rle], [counts], [[polygon]],
        ]  # fmt: skip
        images = [Visualizer(GREY).overlay_instances(masks=kind).get_image().astype(int) for kind in kinds]
        for image in images[1:]:
            assert np.array_equal(image, images[0])

    def test_small_objects_stay_visible(self):
        masks = torch.zeros(2, 60, 80, dtype=torch.bool)
        masks[0, 28:34, 38:44] = True
        masks[1] = True  # drawn first although it comes last
        out = Visualizer(GREY).overlay_instances(masks=masks, assigned_colors=["r", "b"], alpha=1.0).get_image()
        assert out[31, 41].tolist() == [255, 0, 0]

    def test_nothing_to_draw(self):
        nothing = predictions()[:0]
        assert not changed(Visualizer(GREY, META).draw_instance_predictions(nothing)).any()
        assert not changed(Visualizer(GREY).overlay_instances(boxes=Boxes([]), labels=[])).any()

    def test_refuses(self):
        with pytest.raises(ValueError):
            Visualizer(GREY).overlay_instances(boxes=np.zeros((2, 4)), labels=["one"])
        with pytest.raises(ValueError):
            Visualizer(GREY).overlay_instances(masks=np.ones((1, 5, 5)))

    def test_keypoints(self):
        names = ["nose", "left_shoulder", "right_shoulder"]
        meta = {"keypoint_names": names, "keypoint_connection_rules": [(names[1], names[2], (0, 255, 0))]}
        points = torch.tensor([[[40.0, 10.0, 2.0], [20.0, 40.0, 2.0], [60.0, 40.0, 1.0]]])
        image = Visualizer(GREY, meta).overlay_instances(keypoints=Keypoints(points)).get_image().astype(int)
        assert image[39, 30].argmax() == 1  # the green line
        assert image[25, 39].argmax() == 0  # from the nose to between the shoulders
        assert image[9:11, 39:41].min() > 150  # the joint
        points[..., 2] = 0
        assert not changed(Visualizer(GREY, meta).overlay_instances(keypoints=points)).any()


class TestMaps:
    def test_semantic(self):
        labels = np.full((60, 80), 255)
        labels[:, :40] = 0
        labels[:, 40:70] = 1
        meta = {"stuff_classes": ["sky", "road"], "stuff_colors": [[255, 0, 0], [0, 0, 255]]}
        image = Visualizer(GREY, meta).draw_sem_seg(torch.from_numpy(labels), area_threshold=10**9).get_image()
        assert image[30, 20].argmax() == 0 and image[30, 55].argmax() == 2 and image[30, 77].tolist() == [100] * 3

    def test_stuff_without_a_name_shows_its_number(self):
        """A model that was trained on other classes than the data set has."""
        ids = np.full((60, 80), 5)
        meta = {"stuff_classes": ["sky"], "stuff_colors": [[255, 0, 0]]}
        info = [{"id": 5, "category_id": 7, "isthing": False}]
        written = Visualizer(GREY, meta).draw_panoptic_seg(ids, info).get_image()
        named = Visualizer(GREY, {"stuff_classes": [str(k) for k in range(8)]}).draw_panoptic_seg(ids, info).get_image()
        assert np.array_equal(written, named) and (written != 100).any(axis=2).all()

    def test_panoptic_with_and_without_info(self):
        ids = np.full((60, 80), -1)
        ids[:30], ids[30:, :40] = 1000, 2
        meta = {
            "label_divisor": 1000, "thing_classes": ["cat"], "stuff_classes": ["thing", "sky"],
            "stuff_colors": [[0, 0, 0], [0, 255, 0]], "thing_dataset_id_to_contiguous_id": {9: 0},
        }  # fmt: skip
        info = [{"id": 1000, "category_id": 1, "isthing": False}, {"id": 2, "category_id": 0, "isthing": True}]
        a = Visualizer(GREY, meta).draw_panoptic_seg(torch.from_numpy(ids), info).get_image()
        b = Visualizer(GREY, meta).draw_panoptic_seg_predictions(torch.from_numpy(ids), None).get_image()
        assert np.array_equal(a, b) and a[5, 5].argmax() == 1 and a[50, 70].tolist() == [100] * 3
        with pytest.raises(ValueError, match="label_divisor"):
            Visualizer(GREY, {}).draw_panoptic_seg(ids, None)


class TestDatasetDict:
    def test_annotations(self, tmp_path):
        entry = {
            "annotations": [
                {"bbox": [10, 20, 30, 25], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1,
                 "segmentation": [[10, 20, 40, 20, 40, 45, 10, 45]], "keypoints": [20, 30, 2]},
                {"bbox": [50, 20, 70, 45], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1},
            ]
        }  # fmt: skip
        large = np.full((120, 200, 3), 100, dtype=np.uint8)
        drawn = changed(Visualizer(large, META).draw_dataset_dict(entry))
        assert drawn[22:43, 12:38].all() and not drawn[38:42, 54:66].any() and drawn[44:46, 50:69].any()

    def test_maps_from_files(self, tmp_path):
        Image.fromarray(np.ones((60, 80), np.uint8)).save(tmp_path / "s.png")
        color = np.zeros((60, 80, 3), np.uint8)
        color[..., 1] = 1  # id 256
        Image.fromarray(color).save(tmp_path / "p.png")
        meta = {"stuff_classes": ["a", "b"], "thing_classes": ["cat"]}
        sem = Visualizer(GREY, meta).draw_dataset_dict({"sem_seg_file_name": str(tmp_path / "s.png")})
        entry = {
            "pan_seg_file_name": str(tmp_path / "p.png"),
            "segments_info": [{"id": 256, "category_id": 0, "isthing": True}],
        }
        assert changed(sem).all() and changed(Visualizer(GREY, meta).draw_dataset_dict(entry)).all()

    def test_nothing_annotated(self):
        assert not changed(Visualizer(GREY).draw_dataset_dict({"annotations": []})).any()
