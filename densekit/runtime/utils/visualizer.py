"""Pictures of annotations and predictions: boxes, masks, keypoints, and semantic or panoptic maps with their names."""

from collections.abc import Iterable, Sequence
from enum import Enum, unique
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from densekit.runtime.structures import Boxes, BoxMode, Instances, Keypoints
from densekit.runtime.utils.canvas import Color, VisImage, label_size, to_rgb
from densekit.runtime.utils.colormap import colormap
from densekit.runtime.utils.file_io import PathManager

_OFF_WHITE = (1.0, 1.0, 240.0 / 255)
_INK, _PAPER = (0.08, 0.08, 0.1), (1.0, 1.0, 1.0)
_MIN_KEYPOINT_SCORE = 0.05  # below it a keypoint is noise (or not labelled)


@unique
class ColorMode(Enum):
    """Ways to colour objects."""

    IMAGE = 0  # every object a colour of its own
    SEGMENTATION = 1  # objects of a class alike: the data set's colours
    IMAGE_BW = 2  # as IMAGE, with the picture grey outside the masks


class Visualizer:
    """Draws on one image. Every method returns the picture so far, ``get_output()``."""

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """Starts a picture.

        Args:
            img_rgb: (H, W, 3) RGB in 0 .. 255.
            metadata: Names and colours of the data set, with ``get(key, default)``: ``thing_classes``,
                ``thing_colors``, ``stuff_classes``, ``stuff_colors``, ``keypoint_names``,
                ``keypoint_connection_rules``, ``label_divisor``, ``ignore_label``. None for no names.
            scale: Size of the picture, as a factor of the image's; small images are read more easily at 2 or 3.
            instance_mode: How objects are coloured.
            font_size_scale: Factor on the size of the labels.
        """
        self.output = VisImage(img_rgb, scale)
        self.metadata = metadata
        self._instance_mode = instance_mode
        extent = float(np.sqrt(np.prod(self.output.shape)))
        self._font_size = max(round(max(extent / 48, 11) * font_size_scale), 6)
        self._line_width = max(round(extent / 350), 1)
        self._occupied: list[tuple[int, int, int, int]] = []  # plates of labels on the canvas, xyxy

    def get_output(self) -> VisImage:
        return self.output

    # ----- whole results

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draws what an instance model returns for the image.

        Args:
            predictions: May have ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks``, ``pred_keypoints``.
            jittering: In colour mode SEGMENTATION, objects of a class differ a little.
        """
        fields = predictions.to("cpu").get_fields()
        classes = _to_list(fields.get("pred_classes"))
        labels = self._instance_labels(classes, _to_list(fields.get("scores")))
        masks = fields.get("pred_masks")
        alpha = 0.5
        if self._instance_mode == ColorMode.IMAGE_BW and masks is not None:
            covered = np.zeros(self.output.shape, np.uint8)
            for mask in masks:
                covered |= self._canvas_mask(mask)
            self.output.grey_out(covered)
            alpha = 0.3
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=labels,
            masks=masks,
            keypoints=fields.get("pred_keypoints"),
            assigned_colors=self._instance_colors(len(predictions), classes, jittering),
            alpha=alpha,
        )

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draws the annotations of an image.

        Args:
            dic: A data set's entry: ``annotations``, and the maps ``sem_seg`` or ``sem_seg_file_name``, and
                ``pan_seg_file_name`` with ``segments_info``.
        """
        annotations = dic.get("annotations") or []
        if annotations:
            self._draw_annotations(annotations)
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = _read_map(dic["sem_seg_file_name"])
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        if "pan_seg_file_name" in dic:
            color = _read_map(dic["pan_seg_file_name"]).astype(np.int64)
            self.draw_panoptic_seg(
                color @ np.array([1, 256, 256**2]), dic["segments_info"], area_threshold=0, alpha=0.5
            )
        return self.output

    def draw_sem_seg(
        self, sem_seg: torch.Tensor | np.ndarray, area_threshold: float | None = None, alpha: float = 0.8
    ) -> VisImage:
        """Draws a semantic map.

        Args:
            sem_seg: (H, W) class of each pixel; classes without a name (255, say) are left out.
            area_threshold: Smaller classes, in pixels, get no label.
            alpha: Opacity.
        """
        values = np.asarray(sem_seg)
        names = self._meta("stuff_classes")
        labels, areas = np.unique(values, return_counts=True)
        for label in labels[np.argsort(-areas)].tolist():
            if label < 0 or label == self._meta("ignore_label") or (names and label >= len(names)):
                continue
            self._draw_stuff(values == label, label, alpha, area_threshold)
        return self.output

    def draw_panoptic_seg(
        self,
        panoptic_seg: torch.Tensor | np.ndarray,
        segments_info: list[dict[str, Any]] | None,
        area_threshold: float | None = None,
        alpha: float = 0.7,
    ) -> VisImage:
        """Draws a panoptic map: stuff first, then the things.

        Args:
            panoptic_seg: (H, W) segment id of each pixel.
            segments_info: For each segment ``id``, ``category_id``, ``isthing`` and maybe ``score``. None: the ids are
                category * ``label_divisor`` + instance, and negative where there is nothing.
            area_threshold: Smaller stuff segments, in pixels, get no label.
            alpha: Opacity.
        """
        ids = np.asarray(panoptic_seg)
        if segments_info is None:
            segments_info = self._segments_of(ids)
        present = set(np.unique(ids).tolist())
        segments = [info for info in segments_info if info["id"] in present]
        things = [info for info in segments if info["isthing"]]
        for info in segments:
            if not info["isthing"]:
                self._draw_stuff(ids == info["id"], info["category_id"], alpha, area_threshold)
        classes = [info["category_id"] for info in things]
        scores = [info["score"] for info in things] if all("score" in info for info in things) else None
        crowd = [bool(info.get("iscrowd", 0)) for info in things]
        return self.overlay_instances(
            masks=[ids == info["id"] for info in things],
            labels=self._instance_labels(classes, scores, crowd),
            assigned_colors=self._instance_colors(len(things), classes, True),
            alpha=alpha,
        )

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draws N objects, large ones first, and all labels on top of them.

        Args:
            boxes: ``Boxes`` or (N, 4), xyxy in pixels.
            labels: N texts.
            masks: ``BitMasks``, ``PolygonMasks``, (N, H, W), or a list whose items are bitmaps, lists of polygons or
                run-length dicts.
            keypoints: ``Keypoints`` or (N, K, 3) of x, y, score or visibility.
            assigned_colors: N colours, RGB in 0 .. 1; None takes the palette's.
            alpha: Opacity of the masks.
        """
        frames = _to_array(boxes, 4)
        areas = [self._canvas_mask(mask) for mask in masks] if masks is not None else None
        points = _to_array(keypoints)
        parts = [part for part in (frames, areas, points, labels) if part is not None]
        if not parts or len(parts[0]) == 0:
            return self.output
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"boxes, masks, keypoints and labels differ in number: {[len(part) for part in parts]}.")
        colors = [to_rgb(c) for c in assigned_colors] if assigned_colors is not None else None
        colors = colors or self._instance_colors(len(parts[0]), None, False)
        anchors = self._anchors(frames, areas, points)
        order = np.argsort([-(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in anchors], kind="stable").tolist()
        for i in order:
            if areas is not None:
                self.output.fill(areas[i], colors[i], alpha)
                self.output.outline(areas[i], colors[i], self._line_width)
            if frames is not None:
                self.output.rectangle(frames[i], colors[i], self._line_width, alpha=0.6 if areas is not None else 1.0)
        if points is not None:
            for i in order:
                self.draw_and_connect_keypoints(points[i])
        if labels is not None:
            for i in order:
                self._place_label(labels[i], anchors[i], colors[i])
        return self.output

    # ----- primitives

    def draw_and_connect_keypoints(self, keypoints: torch.Tensor | np.ndarray) -> VisImage:
        """Draws the keypoints of one object and the data set's lines between them.

        Args:
            keypoints: (K, 3) of x, y in pixels, and score or visibility.
        """
        values = np.asarray(keypoints, dtype=np.float64)
        names = self._meta("keypoint_names")
        seen = values[:, 2] > _MIN_KEYPOINT_SCORE
        if not seen.any():
            return self.output
        extent = float(np.ptp(values[seen, :2], axis=0).max()) * self.output.scale
        width = int(np.clip(extent / 40, 1, max(self._line_width, 2)))
        if names:
            where = {name: point[:2] for name, point, ok in zip(names, values, seen) if ok}
            for first, second, color in self._meta("keypoint_connection_rules") or []:
                if first in where and second in where:
                    ends = np.stack((where[first], where[second]))
                    self.output.lines(ends, np.divide(color, 255), width, alpha=0.9)
            trunk = _trunk(where)
            if len(trunk) > 1:
                self.output.lines(np.stack(trunk), (0.95, 0.3, 0.3), width, alpha=0.9)
        for x, y, _ in values[seen]:
            self.output.disc((x, y), width * 1.4 + 1.5, _INK)
            self.output.disc((x, y), width * 1.4 + 0.6, _OFF_WHITE)
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
    ) -> VisImage:
        """Writes on a dark plate.

        Args:
            text: One line.
            position: (x, y) in pixels of the plate's top edge.
            font_size: Height of the letters in pixels of the picture.
            color: Of the letters; dark ones are lightened.
            horizontal_alignment: Which point of the top edge lies at x: left, center or right.
        """
        shares = {"left": 0.0, "center": 0.5, "right": 1.0}
        if horizontal_alignment not in shares:
            raise ValueError(f"horizontal_alignment={horizontal_alignment!r} is not one of {', '.join(shares)}.")
        size = max(round(font_size or self._font_size), 6)
        width = label_size(text, size)[0]
        x, y = (float(value) * self.output.scale for value in position)
        corner = round(x - width * shares[horizontal_alignment]), round(y)
        rgb = to_rgb(color)
        self.output.label(text, corner, size, np.maximum(rgb, 0.2 + 0.8 * rgb), _INK)
        return self.output

    def draw_box(self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Color = "g") -> VisImage:
        """Draws a box, xyxy in pixels."""
        self.output.rectangle(box_coord, edge_color, self._line_width, alpha)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Color, radius: float = 3) -> VisImage:
        """Draws a disc; the radius is in image pixels."""
        self.output.disc(circle_coord, radius * self.output.scale, color)
        return self.output

    def draw_line(
        self, x_data: Sequence[float], y_data: Sequence[float], color: Color, linewidth: float | None = None
    ) -> VisImage:
        """Draws a line through points; the width is in pixels of the picture."""
        width = self._line_width if linewidth is None else max(round(linewidth), 1)
        self.output.lines(np.stack((x_data, y_data), axis=1).astype(np.float64), color, width)
        return self.output

    def draw_polygon(
        self, segment: np.ndarray | Sequence[Any], color: Color, edge_color: Color | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Draws a polygon, (n, 2) or flat, in pixels; the edge is a darker shade where no colour is given."""
        mask = self.output.polygons([np.asarray(segment).reshape(-1)])
        self.output.fill(mask, color, alpha)
        self.output.outline(mask, to_rgb(color) * 0.7 if edge_color is None else edge_color, self._line_width)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color | None = None,
        *,
        edge_color: Color | None = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float | None = 10,
    ) -> VisImage:
        """Draws a mask and its name in the middle of it.

        Args:
            binary_mask: (H, W).
            color: None takes the palette's first.
            edge_color: None is the colour itself.
            text: The name.
            alpha: Opacity.
            area_threshold: A smaller mask, in pixels, gets no name.
        """
        binary_mask = np.asarray(binary_mask).astype(bool)
        if not binary_mask.any():
            return self.output
        color = _class_color(0, None) if color is None else to_rgb(color)
        mask = self.output.bitmap(binary_mask)
        self.output.fill(mask, color, alpha)
        self.output.outline(mask, color if edge_color is None else edge_color, max(self._line_width // 2, 1))
        if text and binary_mask.sum() >= (area_threshold or 0):
            x, y = _most_inner_point(mask)
            width, height = label_size(text, self._font_size)
            self._put_label(text, (x - width // 2, y - height // 2), color, self._font_size)
        return self.output

    def _draw_stuff(self, mask: np.ndarray, label: int, alpha: float, area_threshold: float | None) -> None:
        names = self._meta("stuff_classes")
        self.draw_binary_mask(
            mask,
            color=_class_color(label, self._meta("stuff_colors")),
            edge_color=_OFF_WHITE,
            text=names[label] if names and 0 <= label < len(names) else str(label),
            alpha=alpha,
            area_threshold=area_threshold,
        )

    # ----- colours, names, places

    def _meta(self, key: str) -> Any:
        return None if self.metadata is None else self.metadata.get(key, None)

    def _instance_colors(self, count: int, classes: list[int] | None, jittering: bool) -> list[np.ndarray]:
        if self._instance_mode != ColorMode.SEGMENTATION or classes is None:
            return [_class_color(i, None) for i in range(count)]
        base = [_class_color(label, self._meta("thing_colors")) for label in classes]
        if not jittering:
            return base
        # Always the same small shifts, so that pictures can be compared.
        shifts = np.random.default_rng(0).uniform(-0.12, 0.12, (count, 3))
        return [np.clip(color + shift, 0, 1) for color, shift in zip(base, shifts)]

    def _instance_labels(
        self, classes: list[int] | None, scores: list[float] | None, crowd: list[bool] | None = None
    ) -> list[str] | None:
        if classes is None and scores is None:
            return None
        names = self._meta("thing_classes")
        count = len(classes if classes is not None else scores or [])
        texts = []
        for i in range(count):
            words = []
            if classes is not None:
                known = names and 0 <= classes[i] < len(names)
                words.append(str(names[classes[i]]) if known else str(classes[i]))
            if scores is not None:
                words.append(f"{scores[i] * 100:.0f}%")
            if crowd is not None and crowd[i]:
                words.append("(crowd)")
            texts.append(" ".join(words))
        return texts

    def _draw_annotations(self, annotations: list[dict[str, Any]]) -> None:
        def column(key: str, missing: Any) -> list[Any] | None:
            values = [a.get(key) for a in annotations]
            present = any(value is not None for value in values)
            return [missing if value is None else value for value in values] if present else None

        boxes = column("bbox", (0, 0, 0, 0))
        if boxes is not None:
            modes = [BoxMode(a.get("bbox_mode", BoxMode.XYXY_ABS)) for a in annotations]
            boxes = [BoxMode.convert(list(map(float, b)), m, BoxMode.XYXY_ABS) for b, m in zip(boxes, modes)]
        keypoints = column("keypoints", None)
        if keypoints is not None:
            length = max(len(points) for points in keypoints if points is not None)
            keypoints = [np.reshape(np.zeros(length) if p is None else p, (-1, 3)) for p in keypoints]
        classes = column("category_id", -1)
        self.overlay_instances(
            boxes=boxes,
            labels=self._instance_labels(classes, None, [bool(a.get("iscrowd", 0)) for a in annotations]),
            masks=column("segmentation", []),
            keypoints=keypoints,
            assigned_colors=self._instance_colors(len(annotations), classes, True),
        )

    def _segments_of(self, ids: np.ndarray) -> list[dict[str, Any]]:
        divisor = self._meta("label_divisor")
        if divisor is None:
            raise ValueError("a panoptic map without segments_info needs metadata with label_divisor.")
        things = set((self._meta("thing_dataset_id_to_contiguous_id") or {}).values())
        known = [int(i) for i in np.unique(ids) if i >= 0]
        return [{"id": i, "category_id": i // divisor, "isthing": i // divisor in things} for i in known]

    def _canvas_mask(self, mask: Any) -> np.ndarray:
        if isinstance(mask, dict):
            size = mask["size"]
            mask = mask_util.decode(mask_util.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask)
        if isinstance(mask, list):
            return self.output.polygons(mask)
        return self.output.bitmap(np.asarray(mask))

    def _anchors(
        self, frames: np.ndarray | None, areas: list[np.ndarray] | None, points: np.ndarray | None
    ) -> list[tuple[float, float, float, float]]:
        """The boxes, on the canvas, that labels belong to."""
        if frames is not None:
            return [tuple(frame) for frame in (frames * self.output.scale).tolist()]
        if areas is not None:
            rects = [cv2.boundingRect(area) for area in areas]
            return [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in rects]
        if points is None:
            raise ValueError("labels need boxes, masks or keypoints to belong to.")
        xy = points[..., :2] * self.output.scale
        return [tuple(row) for row in np.concatenate((xy.min(axis=1), xy.max(axis=1)), axis=1).tolist()]

    def _place_label(self, text: str, anchor: tuple[float, float, float, float], color: np.ndarray) -> None:
        """Puts a label at a corner of its object where it covers the least of other labels."""
        if not text:
            return
        x0, y0, x1, y1 = (round(value) for value in anchor)
        # Full-size names would bury a group of small objects.
        share = float(np.clip(np.sqrt((x1 - x0) * (y1 - y0)) / (5 * self._font_size), 0.75, 1))
        size = max(round(self._font_size * share), min(self._font_size, 9))
        width, height = label_size(text, size)
        places = [(x0, y0 - height), (x0, y0), (x1 - width, y0 - height), (x0, y1 - height), (x1 - width, y1), (x0, y1)]
        if y0 < height:
            places = places[1:]
        limit = self.output.shape
        inside = [(_clamp(x, limit[1] - width), _clamp(y, limit[0] - height)) for x, y in places]
        costs = [sum(_overlap((x, y, x + width, y + height), other) for other in self._occupied) for x, y in inside]
        self._put_label(text, inside[int(np.argmin(costs))], color, size)

    def _put_label(self, text: str, corner: tuple[int, int], color: np.ndarray, size: int) -> None:
        width, height = label_size(text, size)
        x, y = _clamp(corner[0], self.output.shape[1] - width), _clamp(corner[1], self.output.shape[0] - height)
        self._occupied.append((x, y, x + width, y + height))
        light = float(np.dot(color, (0.299, 0.587, 0.114))) > 0.5
        self.output.label(text, (x, y), size, _INK if light else _PAPER, color)


def _class_color(label: int, colors: Sequence[Sequence[float]] | None) -> np.ndarray:
    """RGB in 0 .. 1 from the data set's colours (0 .. 255), or from the palette."""
    if colors is not None and label < len(colors):
        return np.asarray(colors[label], dtype=np.float32) / 255
    palette = colormap(rgb=True, maximum=1)
    return palette[label % len(palette)]


def _trunk(where: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Nose, middle of the shoulders, middle of the hips: what of a person's axis is visible."""
    points = [where["nose"]] if "nose" in where else []
    for part in ("shoulder", "hip"):
        left, right = where.get(f"left_{part}"), where.get(f"right_{part}")
        if left is None or right is None:
            break
        points.append((left + right) / 2)
    return points


def _most_inner_point(mask: np.ndarray) -> tuple[int, int]:
    """The pixel of a canvas mask that is farthest from its border and the picture's."""
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x) - 1, int(y) - 1


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _clamp(value: int, high: int) -> int:
    return max(min(value, high), 0)


def _to_list(values: Iterable[Any] | None) -> list[Any] | None:
    if values is None:
        return None
    return values.tolist() if isinstance(values, torch.Tensor | np.ndarray) else list(values)


def _to_array(values: Any, columns: int | None = None) -> np.ndarray | None:
    if values is None:
        return None
    if isinstance(values, Boxes | Keypoints):
        values = values.tensor
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(-1, columns) if columns else array


def _read_map(path: str) -> np.ndarray:
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file))
