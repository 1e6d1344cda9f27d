"""Recorded data: letterboxes, the way of a picture through an evaluation, augmentation with recorded draws."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.projects.yolov6.augment import (
    Picture,
    Warp,
    bordered,
    centred_border,
    coloured,
    letterbox,
    mixup,
    mosaic,
    resized,
    size_by_long_side,
)
from densekit.projects.yolov6.inference import boxes_in_picture
from tests.recorded_cases import Cases

Recorded = Mapping[str, Any]


def _check_letterbox(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    for number, one in enumerate(case["cases"]):
        frame = one["new_shape"]
        frame = (frame, frame) if isinstance(frame, int) else tuple(frame)
        multiple = one["stride"] if one["auto"] else 0
        pixels, ratio, border = letterbox(
            one["image_hwc_bgr"].numpy(), frame, multiple=multiple, enlarge=one["scaleup"]
        )
        _same_pixels(f"letterbox {number}: pixels", pixels, one["out"], cases)
        cases.close(f"letterbox {number}: ratio", ratio, one["ratio"], atol=1e-12, rtol=0)
        cases.equal(f"letterbox {number}: border", [border.left, border.top], list(one["pad_left_top"]))


def _check_evaluation(parts: list[Recorded], cases: Cases, recorded: Recorded) -> None:
    for number, case in enumerate(parts):
        picture, side = case["image_hwc_bgr"].numpy(), case["img_size"]
        size = picture.shape[:2]
        inner = size_by_long_side(size, side - (case["shrink"] or 0))
        border = centred_border(inner, (side, side))
        pixels = bordered(resized(picture, inner), border)
        name = f"evaluation {number}"
        _same_pixels(f"{name}: pixels", pixels[..., ::-1].transpose(2, 0, 1).copy(), case["input_rgb_chw"], cases)
        theirs_size, theirs_ratios, theirs_border = case["shapes"]
        cases.equal(f"{name}: size and border", [*size, border.left, border.top], [*theirs_size, *theirs_border])
        cases.close(f"{name}: ratios", [a / b for a, b in zip(inner, size)], list(theirs_ratios), atol=1e-12, rtol=0)
        boxes = boxes_in_picture(case["boxes_in"], (border.left, border.top), inner, size)
        cases.close(f"{name}: boxes", boxes, case["boxes_out"], atol=1e-4, rtol=0)


def _check_rescale(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    """The authors' demonstration neither cuts nor rounds sizes: boxes come back from the ideal letterbox."""
    (height, width), frame = case["image_hw"], case["network_hw"]
    ratio = min(frame[0] / height, frame[1] / width)
    inner = height * ratio, width * ratio
    offset = (frame[1] - inner[1]) / 2, (frame[0] - inner[0]) / 2
    boxes = boxes_in_picture(case["boxes_in"], offset, inner, (height, width))
    cases.close("boxes of the demonstration", boxes, case["boxes_out"], atol=1e-4, rtol=0)


def _check_augment(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    for number, one in enumerate(case["random_affine"]):
        labels = one["labels"].numpy()
        picture = Picture(one["image"].numpy(), labels[:, 1:], labels[:, 0].astype(np.int64))
        _same_picture(f"warp {number}", _warp(one["draws"])(picture, tuple(one["kw"]["new_shape"])), one, cases)
    for number, one in enumerate(case["augment_hsv"]):
        factors = [1 + draw * gain for draw, gain in zip(one["draws"], one["gains"])]
        _same_pixels(f"colours {number}", coloured(one["image_bgr"].numpy(), factors), one["out"], cases)
    one = case["mosaic"]
    pairs = zip(one["images"], one["labels_xywhn"])
    parts = [_from_shares(pixels.numpy(), labels.numpy()) for pixels, labels in pairs]
    y, x, *draws = one["draws"]
    side = one["size"]
    _same_picture("mosaic", _warp(draws)(mosaic(parts, side, (int(y), int(x))), (side, side)), one, cases)
    one = case["mixup"]
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    pair = [Picture(one[key].numpy(), *none) for key in ("image1", "image2")]
    _same_pixels("mixup", mixup(pair[0], pair[1], one["ratio"]).pixels, one["out"], cases)


def _warp(draws: list[float]) -> Warp:
    angle, scale, shear_x, shear_y, x, y = draws
    return Warp(angle, scale, (shear_x, shear_y), (x, y))


def _from_shares(pixels: np.ndarray, labels: np.ndarray) -> Picture:
    """A picture with rows of class, centre and size as shares of its sides."""
    size = np.array([pixels.shape[1], pixels.shape[0]])
    centre, half = labels[:, 1:3] * size, labels[:, 3:5] * size / 2
    return Picture(pixels, np.concatenate([centre - half, centre + half], 1), labels[:, 0].astype(np.int64))


def _same_picture(name: str, ours: Picture, theirs: Recorded, cases: Cases) -> None:
    _same_pixels(f"{name}: pixels", ours.pixels, theirs["out_image"], cases)
    cases.equal(f"{name}: classes", ours.classes.tolist(), theirs["out_labels"][:, 0].long().tolist())
    cases.close(f"{name}: boxes", torch.from_numpy(ours.boxes), theirs["out_labels"][:, 1:], atol=1e-4, rtol=0)


def _same_pixels(name: str, ours: np.ndarray, theirs: Tensor, cases: Cases) -> None:
    cases.equal(name, torch.from_numpy(ours), theirs)


CHECKS = {
    "letterbox": _check_letterbox,
    "evaluation_pipeline": _check_evaluation,
    "infer_rescale": _check_rescale,
    "augment": _check_augment,
}
