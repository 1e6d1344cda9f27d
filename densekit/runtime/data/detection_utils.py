"""From files and annotations to what models take: images as arrays, annotations as :class:`Instances`.

Records and annotations are dicts in the standard format (``file_name``, ``height``, ``width``, ``image_id``,
``annotations`` with ``bbox``, ``bbox_mode``, ``category_id``, ``segmentation``, ``keypoints``, ``iscrowd``). An image
size is (height, width) in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from densekit.files.picture import YUV, decode
from densekit.runtime.data import transforms as T
from densekit.runtime.data.catalog import MetadataCatalog
from densekit.runtime.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
    polygons_to_bitmask,
)
from densekit.runtime.utils.file_io import PathManager

_YUV_TO_RGB = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])


class SizeMismatchError(ValueError):
    """An image does not have the size that its record gives."""


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Reads an image, upright as its EXIF orientation says.

    Args:
        file_name: Path of the file.
        format: "BGR", "YUV-BT.601" or a PIL mode such as "RGB" or "L"; None keeps the file's own mode.

    Returns:
        (H, W, C) array, uint8 in 0..255; float64 for YUV; (H, W) for a file of one channel that keeps its mode.
    """
    with PathManager.open(file_name, "rb") as stream:
        return decode(stream, format)


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """Turns an image into RGB for display.

    Args:
        image: (H, W, C).
        format: Its format, as for :func:`read_image`.

    Returns:
        (H, W, 3) in 0..255.
    """
    array = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if format == "BGR":
        return array[:, :, ::-1]
    if format == YUV:
        return np.dot(array, _YUV_TO_RGB.T) * 255.0
    array = array.astype(np.uint8)
    if format == "RGB":
        return array
    if format == "L":
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    height, width = array.shape[:2]
    return np.asarray(Image.frombytes(format, (width, height), array.tobytes()).convert("RGB"))


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compares an image with its record; a record without size gets the image's.

    Raises:
        SizeMismatchError: They differ.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected != (width, height):
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '(no file name)')} is {width} x {height} (width x height) and its "
            f"annotation says {expected[0]} x {expected[1]}. Correct width and height in the annotation."
        )


def transform_proposals(
    dataset_dict: dict[str, Any],
    image_shape: tuple[int, int],
    transforms: T.Transform,
    *,
    proposal_topk: int,
    min_box_size: float = 0,
) -> None:
    """Replaces precomputed proposals in a record by ``proposals``, an :class:`Instances` in the transformed image.

    Args:
        dataset_dict: Record; ``proposal_boxes``, ``proposal_objectness_logits`` and ``proposal_bbox_mode`` are taken
            out. Without them nothing happens.
        image_shape: (height, width) of the transformed image.
        transforms: What was applied to the image.
        proposal_topk: How many of the best are kept; the boxes come sorted.
        min_box_size: Boxes not wider or not higher than this are dropped, pixels.
    """
    if "proposal_boxes" not in dataset_dict:
        return
    raw, mode = dataset_dict.pop("proposal_boxes"), dataset_dict.pop("proposal_bbox_mode")
    boxes = Boxes(transforms.apply_box(BoxMode.convert(raw, mode, BoxMode.XYXY_ABS)))
    boxes.clip(image_shape)
    keep = boxes.nonempty(threshold=min_box_size)
    logits = torch.as_tensor(dataset_dict.pop("proposal_objectness_logits").astype("float32"))
    dataset_dict["proposals"] = Instances(
        image_shape, proposal_boxes=boxes[keep][:proposal_topk], objectness_logits=logits[keep][:proposal_topk]
    )


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Applies transforms to the box, the mask and the keypoints of one annotation, in place.

    Args:
        annotation: Annotation of the standard format.
        transforms: What was applied to the image.
        image_size: (height, width) of the transformed image; the box is clipped to it.
        keypoint_hflip_indices: See :func:`create_keypoint_hflip_indices`.

    Returns:
        The same dict: ``bbox`` is xyxy, polygons are flat arrays, an RLE has become an (H, W) array.
    """
    if not isinstance(transforms, T.Transform):
        transforms = T.TransformList(list(transforms))
    height, width = image_size
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    moved = transforms.apply_box(np.array([box]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(moved, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, image_size)
    if "keypoints" in annotation:
        annotation["keypoints"] = transform_keypoint_annotations(
            annotation["keypoints"], transforms, image_size, keypoint_hflip_indices
        )
    return annotation


def _transform_segmentation(
    segmentation: Any, transforms: T.Transform, image_size: tuple[int, int]
) -> list[np.ndarray] | np.ndarray:
    if isinstance(segmentation, list):
        polygons = [np.asarray(polygon).reshape(-1, 2) for polygon in segmentation]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        if mask.shape[:2] != tuple(image_size):
            raise ValueError(
                f"The RLE mask has size {segmentation['size']} (height, width), which is {tuple(mask.shape[:2])} after "
                f"the transforms; the transformed image is {tuple(image_size)}. Mask and image must have one size."
            )
        return mask
    raise ValueError(
        f"A segmentation must be a list of polygons or an RLE dict with 'size' and 'counts', not {type(segmentation)}."
    )


def transform_keypoint_annotations(
    keypoints: Any,
    transforms: T.Transform,
    image_size: tuple[int, int],
    keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Applies transforms to the keypoints of one annotation.

    Args:
        keypoints: K times (x, y, visibility), in pixels, as a flat list or an array.
        transforms: What was applied to the image.
        image_size: (height, width) of the transformed image.
        keypoint_hflip_indices: See :func:`create_keypoint_hflip_indices`; needed if ``transforms`` flip horizontally.

    Returns:
        (K, 3) float64. What fell outside the image or was not labelled is (0, 0, 0).

    Raises:
        ValueError: A flip without indices, or with another number of them.
    """
    points = np.array(keypoints, dtype=np.float64).reshape(-1, 3)
    points[:, :2] = transforms.apply_coords(points[:, :2].copy())
    height, width = image_size
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= (width, height))).all(axis=1)
    points[~inside, 2] = 0
    steps = transforms.transforms if isinstance(transforms, T.TransformList) else [transforms]
    if sum(isinstance(step, T.HFlipTransform) for step in steps) % 2:
        if keypoint_hflip_indices is None or len(keypoint_hflip_indices) != len(points):
            given = "none were given" if keypoint_hflip_indices is None else f"{len(keypoint_hflip_indices)} were given"
            raise ValueError(
                f"Flipping {len(points)} keypoints needs as many flip indices; {given}. They come from "
                "`keypoint_names` and `keypoint_flip_map` in the data set's metadata."
            )
        points = points[np.asarray(keypoint_hflip_indices)]
    points[points[:, 2] == 0] = 0
    return points


def annotations_to_instances(
    annos: list[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Collects the annotations of one image.

    Args:
        annos: Annotations, after :func:`transform_instance_annotations` or not.
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".

    Returns:
        :class:`Instances` with ``gt_boxes`` and ``gt_classes``, and with ``gt_masks`` and ``gt_keypoints`` if the
        annotations have them.

    Raises:
        ValueError: A mask that does not fit the format.
        KeyError: Some annotations have a mask or keypoints and others do not.
    """
    boxes = [BoxMode.convert(anno["bbox"], anno["bbox_mode"], BoxMode.XYXY_ABS) for anno in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    if any("segmentation" in anno for anno in annos):
        target.gt_masks = _collect_masks([anno["segmentation"] for anno in annos], image_size, mask_format)
    if any("keypoints" in anno for anno in annos):
        target.gt_keypoints = Keypoints(np.array([anno["keypoints"] for anno in annos]).reshape(len(annos), -1, 3))
    return target


def _collect_masks(segmentations: list[Any], image_size: tuple[int, int], mask_format: str) -> PolygonMasks | BitMasks:
    if mask_format == "polygon":
        if all(isinstance(segmentation, list) for segmentation in segmentations):
            return PolygonMasks(segmentations)
        raise ValueError(
            "The masks are not all polygons (RLE or arrays), which mask format 'polygon' cannot hold. "
            "Set INPUT.MASK_FORMAT to 'bitmask'."
        )
    if mask_format != "bitmask":
        raise ValueError(f"Mask format {mask_format!r} is neither 'polygon' nor 'bitmask'.")
    return BitMasks(torch.stack([torch.from_numpy(_to_bitmask(s, image_size)) for s in segmentations]))


def _to_bitmask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    mask = mask_util.decode(segmentation) if isinstance(segmentation, dict) else np.asarray(segmentation)
    if mask.ndim != 2:
        raise ValueError(f"A mask must be polygons, an RLE dict or an (H, W) array, not an array of {mask.shape}.")
    return np.ascontiguousarray(mask)


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Drops instances whose box or mask is empty.

    Args:
        instances: With ``gt_boxes`` and perhaps ``gt_masks``.
        by_box: Whether empty boxes count.
        by_mask: Whether empty masks count.
        box_threshold: Least width and height of a box, pixels.
        return_mask: Whether the (N,) bool tensor of what was kept is returned as well.
    """
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]


def create_keypoint_hflip_indices(dataset_names: str | Sequence[str]) -> list[int]:
    """Returns where each keypoint comes from when an image is mirrored, from the data sets' metadata.

    Args:
        dataset_names: Data sets with the same ``keypoint_names`` and ``keypoint_flip_map``.

    Returns:
        K indices: the left eye's is the right eye's, and so on.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    check_metadata_consistency("keypoint_names", names)
    check_metadata_consistency("keypoint_flip_map", names)
    metadata = MetadataCatalog.get(names[0])
    other = {a: b for pair in metadata.keypoint_flip_map for a, b in (pair, pair[::-1])}
    points = list(metadata.keypoint_names)
    return [points.index(other.get(point, point)) for point in points]


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> T.CropTransform:
    """Draws a window that holds the centre of an instance.

    Args:
        crop_size: (height, width) of the window, pixels.
        image_size: (height, width), at least the window's.
        instance: Annotation with ``bbox`` and ``bbox_mode``.

    Raises:
        ValueError: The window is larger than the image, or the box's centre lies outside.
    """
    x0, y0, x1, y1 = BoxMode.convert(instance["bbox"], instance["bbox_mode"], BoxMode.XYXY_ABS)
    size, window = np.array(image_size), np.array(crop_size, dtype=np.int32)
    centre = np.array([(y0 + y1) * 0.5, (x0 + x1) * 0.5])  # (y, x), as sizes are
    if (centre > size).any():
        raise ValueError(f"The centre {tuple(centre[::-1])} (x, y) of the box lies outside an image of {image_size}.")
    if (window > size).any():
        raise ValueError(f"A window of {tuple(crop_size)} does not fit into an image of {image_size} (h, w).")
    first = np.maximum(np.floor(centre).astype(int) - window, 0)
    last = np.minimum(np.maximum(size - window, 0), np.ceil(centre).astype(int))
    top = np.random.randint(first[0], last[0] + 1)
    left = np.random.randint(first[1], last[1] + 1)
    return T.CropTransform(left, top, int(window[1]), int(window[0]))


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Makes sure that data sets used together agree.

    Raises:
        AttributeError: One of them lacks the key.
        ValueError: Two of them differ.
    """
    values = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    for name, value in values.items():
        first = dataset_names[0]
        if value != values[first]:
            raise ValueError(
                f"Data sets used together differ in {key!r}: {first!r} has {values[first]!r}, {name!r} has {value!r}."
            )


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """Returns the default augmentations of a config: resize by the shortest edge and, in training, flip."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    flip = cfg.INPUT.RANDOM_FLIP
    if flip == "none":
        return [resize]
    return [resize, T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")]
