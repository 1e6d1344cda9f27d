"""Tiles cover a picture, and objects that several tiles show are found once, as the whole picture shows them."""

import itertools

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch

from densekit.d2.structures import Boxes, Instances
from densekit.formats.classes import Classes
from densekit.inference.instance_results import tiled_results
from densekit.inference.rle import encode_in_frame
from densekit.inference.tiles import Tiling

CLASSES = Classes(things=[(11, "bolt"), (5, "nut")])


@pytest.mark.parametrize("tiling", [Tiling(40, 0.2), Tiling(33, 0.5), Tiling(50, 0.0), Tiling(7, 0.9)], ids=str)
@pytest.mark.parametrize("size", [(40, 41), (100, 160), (33, 500), (7, 8)])
def test_tiles_are_whole_and_their_cores_are_the_picture(tiling, size):
    height, width = size
    seen = np.zeros(size, dtype=int)
    tiles = tiling.tiles(height, width)
    for tile in tiles:
        (x0, y0, x1, y1), (left, top, right, bottom) = tile.box, tile.core
        assert (x1 - x0, y1 - y0) == (min(tiling.size, width), min(tiling.size, height))
        assert x0 <= left < right <= x1 and y0 <= top < bottom <= y1
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()
    for spans in ({tile.box[::2] for tile in tiles}, {tile.box[1::2] for tile in tiles}):
        for (_, end), (start, _) in itertools.pairwise(sorted(spans)):
            assert end - start >= tiling.size * tiling.overlap - 1


def test_bad_tilings_are_refused():
    for size, overlap in ((0, 0.2), (100, 1.0), (100, -0.1)):
        with pytest.raises(ValueError, match=r"--tile|--overlap"):
            Tiling(size, overlap)


@pytest.mark.parametrize("corner", [(0, 0), (3, 0), (0, 5), (13, 7), (20, 20)])
def test_masks_in_a_frame_are_those_of_the_pasted_masks(corner):
    random = np.random.default_rng(0)
    masks = [random.random((20, 20)) > p for p in (0.02, 0.5, 0.98)]
    masks += [np.zeros((20, 20), bool), np.ones((20, 20), bool), np.eye(20, dtype=bool)]
    x, y = corner
    whole = np.zeros((len(masks), 40, 40), dtype=np.uint8)
    whole[:, y : y + 20, x : x + 20] = masks
    found = encode_in_frame(torch.from_numpy(np.stack(masks)), corner, (40, 40))
    assert found == [mask_utils.encode(np.asfortranarray(mask)) for mask in whole]
    # Runs over the borders of columns, which only masks as high as the picture have.
    assert encode_in_frame(torch.ones(1, 6, 3), (2, 0), (6, 9))[0] == mask_utils.encode(
        np.asfortranarray(np.repeat([[0, 0, 1, 1, 1, 0, 0, 0, 0]], 6, axis=0), dtype=np.uint8)
    )


class Scene:
    """Ellipses of two classes that hardly overlap, and a detector without mistakes but for what a tile cuts off."""

    def __init__(self, seed: int, size: tuple[int, int], sizes: tuple[int, int]) -> None:
        random = np.random.default_rng(seed)
        self.size, taken = size, np.zeros(size, dtype=bool)
        self.masks, self.classes, self.scores = [], [], []
        for _ in range(60):
            mask = np.zeros(size, np.uint8)
            center = (int(random.integers(0, size[1])), int(random.integers(0, size[0])))
            axes = tuple(int(v) for v in random.integers(*sizes, 2))
            cv2.ellipse(mask, center, axes, 0, 0, 360, 1, -1)
            if mask.sum() > 20 and not (mask.astype(bool) & taken).any():
                taken |= cv2.dilate(mask, np.ones((7, 7), np.uint8)).astype(bool)
                self.masks.append(mask.astype(bool))
                self.classes.append(int(random.integers(0, 2)))
                self.scores.append(float(random.uniform(0.6, 1)))

    def seen(self, box: tuple[int, int, int, int], jitter: np.random.Generator | None = None) -> Instances:
        x0, y0, x1, y1 = box
        parts = [mask[y0:y1, x0:x1] for mask in self.masks]
        # A sliver of less than three pixels is nothing that a detector finds.
        extents = [cv2.boundingRect(part.astype(np.uint8))[2:] for part in parts]
        kept = [k for k, extent in enumerate(extents) if min(extent) >= 3]
        instances = Instances((y1 - y0, x1 - x0))
        boxes = np.array([cv2.boundingRect(parts[k].astype(np.uint8)) for k in kept], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        if jitter is not None:
            boxes += jitter.uniform(-1, 1, boxes.shape)
        instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())
        instances.pred_classes = torch.tensor([self.classes[k] for k in kept], dtype=torch.int64)
        noise = jitter.uniform(-0.1, 0, len(kept)) if jitter is not None else np.zeros(len(kept))
        instances.scores = torch.tensor([self.scores[k] + noise[n] for n, k in enumerate(kept)])
        instances.pred_masks = torch.from_numpy(np.array([parts[k] for k in kept]).reshape(-1, y1 - y0, x1 - x0))
        middles = [np.argwhere(parts[k]).mean(axis=0)[::-1] for k in kept]
        points = [[*middle, len(np.argwhere(parts[k]))] for middle, k in zip(middles, kept)]
        instances.pred_keypoints = torch.tensor(np.array(points).reshape(-1, 1, 3), dtype=torch.float32)
        return instances


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(4, 12), (10, 30), (30, 90)], ids=["small", "middle", "larger than a tile"])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "jittered"])
def test_every_object_is_found_once(seed, sizes, exact):
    scene, tiling = Scene(seed, (200, 260), sizes), Tiling(80, 0.3)
    tiles = tiling.tiles(200, 260)
    jitter = None if exact else np.random.default_rng(seed)
    results = tiled_results([scene.seen(t.box, jitter) for t in tiles], tiles, (200, 260), 9, CLASSES, 0.3)
    assert len(results) == len(scene.masks)
    truth = [mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in scene.masks]
    iou = mask_utils.iou([r["segmentation"] for r in results], truth, [0] * len(truth))
    owner = iou.argmax(axis=1)
    assert sorted(owner) == list(range(len(truth)))
    for result, found, k in zip(results, iou, owner):
        assert result["category_id"] == CLASSES.things[scene.classes[k]][0]
        assert found[k] == pytest.approx(1.0)  # only boxes are jittered
        x, y, width, height = cv2.boundingRect(scene.masks[k].astype(np.uint8))
        assert np.abs(np.array(result["bbox"]) - [x, y, width, height]).max() <= (1e-4 if exact else 4)
        if exact:
            assert result["score"] == pytest.approx(scene.scores[k])
            assert scene.masks[k][int(result["keypoints"][1] + 0.5), int(result["keypoints"][0] + 0.5)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [(4, 12), (10, 30), (30, 90)], ids=["small", "middle", "larger than a tile"])
def test_every_object_is_found_once_by_its_box_alone(seed, sizes):
    scene, tiling = Scene(seed, (200, 260), sizes), Tiling(80, 0.3)
    tiles, jitter = tiling.tiles(200, 260), np.random.default_rng(seed)
    found = [scene.seen(tile.box, jitter) for tile in tiles]
    for instances in found:
        instances.remove("pred_masks")
    results = tiled_results(found, tiles, (200, 260), 9, CLASSES, 0.3)
    truth = [cv2.boundingRect(mask.astype(np.uint8)) for mask in scene.masks]
    ours = [result["bbox"] for result in results]
    assert len(ours) == len(truth)
    assert all(min(np.abs(np.subtract(box, mine)).max() for mine in ours) <= 4 for box in truth)


def test_objects_that_touch_are_not_joined():
    """Two boxes of one class side by side across the middle of the strip, and one of another class over both."""
    tiles = Tiling(60, 0.5).tiles(60, 90)
    boxes = torch.tensor([[20.0, 10, 44, 50], [46, 10, 70, 50], [25, 12, 65, 48]])
    found = []
    for tile in tiles:
        x0, y0, x1, y1 = tile.box
        seen = boxes.clone().clamp(min=torch.tensor([x0, y0, x0, y0]), max=torch.tensor([x1, y1, x1, y1]))
        instances = Instances((60, 60))
        instances.pred_boxes = Boxes(seen - seen.new_tensor([x0, y0, x0, y0]))
        instances.scores, instances.pred_classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
        found.append(instances)
    results = tiled_results(found, tiles, (60, 90), 1, CLASSES, 0.0)
    corners = sorted((r["category_id"], *(round(v, 3) for v in r["bbox"])) for r in results)
    assert corners == [(5, 25, 12, 40, 36), (11, 20, 10, 24, 40), (11, 46, 10, 24, 40)]


def test_nothing_found_is_nothing_merged():
    tiles = Tiling(50, 0.2).tiles(60, 90)
    empty = Scene(0, (60, 90), (4, 6))
    empty.masks = []
    assert tiled_results([empty.seen(tile.box) for tile in tiles], tiles, (60, 90), 1, CLASSES, 0.5) == []
