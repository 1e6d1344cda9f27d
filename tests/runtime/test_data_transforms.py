"""Transforms: a known value and the inverse on every kind of coordinates; cropped polygons against rasterised ones."""

import importlib.util

import cv2
import numpy as np
import pytest

from densekit.d2 import HOST
from densekit.d2.data import transforms as T

needs_polygon_crop = pytest.mark.skipif(
    HOST == "detectron2" and importlib.util.find_spec("shapely") is None,
    reason="Detectron2 crops polygons with shapely",
)


def picture(h=30, w=40, channels=3):
    return np.random.randint(0, 256, (h, w, channels) if channels else (h, w), dtype=np.uint8)


def points(count=20, h=30, w=40):
    return np.random.rand(count, 2) * (w, h)


INVERTIBLE = {
    "resize": (T.ResizeTransform(30, 40, 60, 20), [[10.0, 10.0]], [[5.0, 20.0]]),
    "hflip": (T.HFlipTransform(40), [[10.0, 10.0]], [[30.0, 10.0]]),
    "vflip": (T.VFlipTransform(30), [[10.0, 10.0]], [[10.0, 20.0]]),
    "crop": (T.CropTransform(4, 3, 20, 10, 40, 30), [[10.0, 10.0]], [[6.0, 7.0]]),
    "pad": (T.PadTransform(4, 3, 2, 1, 40, 30), [[10.0, 10.0]], [[14.0, 13.0]]),
    "list": (T.TransformList([T.HFlipTransform(40), T.ResizeTransform(30, 40, 15, 20)]), [[10.0, 10.0]], [[15.0, 5.0]]),
    # A quarter turn counter-clockwise takes (x, y) to (y, w - x).
    "rotation": (T.RotationTransform(30, 40, 90), [[10.0, 7.0]], [[7.0, 30.0]]),
}


@pytest.mark.parametrize("name", INVERTIBLE)
def test_coordinates_known_value_and_inverse(name):
    transform, before, after = INVERTIBLE[name]
    np.testing.assert_allclose(transform.apply_coords(np.array(before)), after, atol=1e-4)
    original = points()
    back = transform.inverse().apply_coords(transform.apply_coords(original.copy()))
    np.testing.assert_allclose(back, original, atol=1e-4)


@pytest.mark.parametrize("name", ["resize", "hflip", "vflip", "pad", "list", "rotation"])
def test_boxes_are_the_hull_of_their_corners_and_polygons_follow(name):
    transform = INVERTIBLE[name][0]
    box = np.array([[5.0, 6.0, 25.0, 20.0]])
    corners = np.array([[5.0, 6.0], [25.0, 6.0], [25.0, 20.0], [5.0, 20.0]])
    moved = transform.apply_polygons([corners.copy()])[0]
    np.testing.assert_allclose(transform.apply_box(box)[0], [*moved.min(axis=0), *moved.max(axis=0)], atol=1e-4)


@pytest.mark.parametrize("name", ["resize", "hflip", "vflip", "crop", "pad", "rotation"])
def test_pixels_move_with_coordinates(name):
    """A bright block in the image ends where its centre goes."""
    transform = INVERTIBLE[name][0]
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    image[8:12, 12:16] = 255
    moved = transform.apply_image(image)[..., 0].astype(float)
    rows, columns = np.mgrid[: moved.shape[0], : moved.shape[1]] + 0.5
    centre = [(columns * moved).sum() / moved.sum(), (rows * moved).sum() / moved.sum()]
    np.testing.assert_allclose(centre, transform.apply_coords(np.array([[14.0, 10.0]]))[0], atol=0.3)


def test_extent_scales_the_rectangle_to_the_output():
    transform = T.ExtentTransform((10, 5, 30, 15), (20, 40))
    np.testing.assert_allclose(transform.apply_coords(np.array([[10.0, 5.0], [30.0, 15.0]])), [[0, 0], [40, 20]])
    assert transform.apply_image(picture()).shape == (20, 40, 3)
    outside = T.ExtentTransform((-10, 0, 0, 10), (10, 10)).apply_image(picture() | 1)
    assert not outside.any()


def test_resize_keeps_single_channels_and_labels():
    resize = T.ResizeTransform(30, 40, 45, 33)
    assert resize.apply_image(picture(channels=1)).shape == (45, 33, 1)
    assert resize.apply_image(picture(channels=0)).shape == (45, 33)
    labels = np.random.choice(np.array([0, 7, 255], dtype=np.uint8), (30, 40))
    assert set(np.unique(resize.apply_segmentation(labels))) <= {0, 7, 255}


def test_resize_of_floats_agrees_with_a_linear_ramp():
    """Bilinear interpolation reproduces a plane away from the border."""
    ramp = np.tile(np.arange(40, dtype=np.float32)[None, :, None], (30, 1, 2))
    out = T.ResizeTransform(30, 40, 60, 80).apply_image(ramp)
    expected = (np.arange(80) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(out[10, 2:-2, 1], expected[2:-2], atol=1e-5)


def test_labels_of_any_integer_type_are_resized():
    from densekit.runtime.data.transforms import ResizeTransform

    labels = np.random.randint(0, 70000, (30, 40))
    for dtype in (np.int64, np.int32, np.uint16, bool):
        doubled = ResizeTransform(30, 40, 60, 80).apply_segmentation(labels.astype(dtype))
        np.testing.assert_array_equal(doubled, labels.astype(dtype).repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [((480, 640), 800, 1333, (800, 1067)), ((640, 480), 800, 1333, (1067, 800)), ((500, 2000), 800, 1333, (333, 1333)),
     ((100, 100), 50, 1333, (50, 50))],
)  # fmt: skip
def test_shortest_edge_sizes(size, short, longest, expected):
    assert T.ResizeShortestEdge.get_output_shape(*size, short, longest) == expected


def test_shortest_edge_zero_means_no_resize():
    assert isinstance(T.ResizeShortestEdge(0, 100, "choice").get_transform(picture()), T.NoOpTransform)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [("relative", (0.5, 0.25), (15, 10)), ("absolute", (12, 100), (12, 40)), ("absolute_range", (7, 7), (7, 7))],
)
def test_random_crop_sizes(kind, size, expected):
    crop = T.RandomCrop(kind, size)
    for _ in range(20):
        assert crop.get_transform(picture()).apply_image(picture()).shape[:2] == expected


def test_relative_range_crops_between_the_bound_and_the_whole():
    sizes = np.array([T.RandomCrop("relative_range", (0.5, 0.8)).get_crop_size((100, 100)) for _ in range(300)])
    assert (sizes.min(axis=0) >= (50, 80)).all() and (sizes.max(axis=0) <= 100).all()
    assert (sizes.min(axis=0) < (60, 85)).all() and (sizes.max(axis=0) > 95).all()


def test_fixed_size_crop_pads_to_the_right_and_below():
    image, labels = picture(10, 50), np.zeros((10, 50), dtype=np.uint8)
    inputs = T.AugInput(image, sem_seg=labels)
    T.FixedSizeCrop((20, 30), pad_value=9, seg_pad_value=255)(inputs)
    assert inputs.image.shape == (20, 30, 3) and inputs.sem_seg.shape == (20, 30)
    assert (inputs.image[10:] == 9).all() and (inputs.sem_seg[10:] == 255).all() and not inputs.sem_seg[:10].any()


def test_flip_probabilities():
    assert isinstance(T.RandomFlip(1.0).get_transform(picture()), T.HFlipTransform)
    assert isinstance(T.RandomFlip(1.0, horizontal=False, vertical=True).get_transform(picture()), T.VFlipTransform)
    assert isinstance(T.RandomFlip(0.0).get_transform(picture()), T.NoOpTransform)
    flips = [isinstance(T.RandomFlip(0.3).get_transform(picture()), T.HFlipTransform) for _ in range(1000)]
    assert 0.22 < np.mean(flips) < 0.38


@pytest.mark.parametrize("name", ["RandomContrast", "RandomBrightness", "RandomSaturation"])
def test_intensity_one_keeps_the_image(name):
    image = picture()
    changed = getattr(T, name)(1.0, 1.0).get_transform(image).apply_image(image)
    np.testing.assert_allclose(changed.astype(int), image, atol=1)


def test_colour_extremes():
    image = picture()
    assert not T.RandomBrightness(0, 0).get_transform(image).apply_image(image).any()
    flat = T.RandomContrast(0, 0).get_transform(image).apply_image(image)
    assert flat.min() == flat.max() == int(image.mean())
    grey = T.RandomSaturation(0, 0).get_transform(image).apply_image(image)
    assert (grey[..., 0] == grey[..., 2]).all()
    np.testing.assert_array_equal(T.RandomLighting(0).get_transform(image).apply_image(image), image)


def test_min_iou_crop_keeps_a_centre_inside():
    image, boxes = picture(100, 120), np.array([[20.0, 20.0, 60.0, 70.0], [70.0, 30.0, 110.0, 90.0]])
    for _ in range(50):
        transform = T.MinIoURandomCrop(min_ious=(0.1,)).get_transform(image, boxes)
        h, w = transform.apply_image(image).shape[:2]
        moved = transform.apply_box(boxes.copy())
        centres = (moved[:, :2] + moved[:, 2:]) / 2
        assert ((centres > 0) & (centres < (w, h))).all(axis=1).any()


def test_augmentations_see_what_the_ones_before_left():
    sizes = []

    class Look(T.Augmentation):
        def get_transform(self, image, boxes):
            sizes.append((image.shape[:2], boxes[0].tolist()))
            return T.NoOpTransform()

    inputs = T.AugInput(picture(), boxes=np.array([[0.0, 0.0, 20.0, 30.0]]))
    done = T.AugmentationList([T.Resize((60, 80)), Look(), T.HFlipTransform(80), Look()])(inputs)
    assert sizes == [((60, 80), [0, 0, 40, 60]), ((60, 80), [40, 0, 80, 60])]
    np.testing.assert_allclose(done.apply_coords(np.array([[10.0, 10.0]])), [[60.0, 20.0]])


def test_random_apply():
    flip = T.RandomFlip(1.0)
    assert isinstance(T.RandomApply(flip, prob=0.0)(T.AugInput(picture())), T.NoOpTransform)
    assert isinstance(T.RandomApply(flip, prob=1.0)(T.AugInput(picture())), T.HFlipTransform)


def filled(polygons, h, w, zoom=8):
    """Rasterises with the even-odd rule, at ``zoom`` times the resolution."""
    canvas = np.zeros((h * zoom, w * zoom), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.round(p * zoom * 16).astype(np.int32) for p in polygons], 1, shift=4)
    return canvas


@needs_polygon_crop
@pytest.mark.parametrize("seed", range(15))
def test_cropped_polygons_cover_what_the_cropped_mask_covers(seed):
    """Stars with many arms leave and enter the window often; each is cut once as a polygon and once as a mask."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 24))
    star = np.array([32.0, 32.0]) + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(3, 31, (24, 1))
    x0, y0, w, h = 20, 14, 24, 30
    cut = T.CropTransform(x0, y0, w, h).apply_polygons([star])
    expected = filled([star], 64, 64)[y0 * 8 : (y0 + h) * 8, x0 * 8 : (x0 + w) * 8]
    found = filled(cut, h, w) if cut else np.zeros_like(expected)
    outline = 8 * sum(np.linalg.norm(p - np.roll(p, 1, axis=0), axis=1).sum() for p in cut)
    assert (found != expected).sum() <= 1.5 * outline
    assert all((p >= -1e-6).all() and (p <= np.array([w, h]) + 1e-6).all() for p in cut)


@needs_polygon_crop
def test_cropped_polygon_falls_apart_without_bridges():
    comb = np.array([[0, 0], [10, 0], [10, 3], [3, 3], [3, 5], [10, 5], [10, 10], [0, 10]], dtype=float)
    pieces = T.CropTransform(5, 0, 5, 10).apply_polygons([comb])
    hulls = sorted([*p.min(axis=0), *p.max(axis=0)] for p in pieces)
    assert hulls == [[0, 0, 5, 3], [0, 5, 5, 10]]
    assert T.CropTransform(20, 0, 5, 5).apply_polygons([comb]) == []
    whole = T.CropTransform(0, 0, 10, 10).apply_polygons([comb])
    assert len(whole) == 1 and len(whole[0]) == len(comb)
