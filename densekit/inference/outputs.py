"""Outputs of a model for a picture, cut down to the parts that are kept, and then written.

The first half runs between two forward passes and only starts work on the device; the second, in the recorder's thread,
waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densekit.d2.structures import Instances
from densekit.files.atomic import atomic_write
from densekit.files.panoptic_png import id2rgb
from densekit.formats.classes import Classes
from densekit.inference.instance_results import tiled_results, whole_results
from densekit.inference.reading import Loaded

# ours -> the model's
PRODUCTS = {
    "instances": "instances",
    "semantic": "sem_seg",
    "panoptic": "panoptic_seg",
    "inpainted": "inpainted",
    "classes": "class_scores",
}
_BEST_CLASSES = 5


# What the host's models return, by class; one of a system says it in an attribute ``output_kinds``.
_HOST_OUTPUTS = {
    "GeneralizedRCNN": ("instances",),
    "DenseDetector": ("instances",),
    "SemanticSegmentor": ("sem_seg",),
    "PanopticFPN": ("instances", "sem_seg", "panoptic_seg"),
}


def products_of(model: Any) -> list[str]:
    """The products that a model gives.

    Raises:
        ValueError: None of them.
    """
    bases = (_HOST_OUTPUTS.get(base.__name__) for base in type(model).__mro__)
    given = getattr(model, "output_kinds", None) or next(filter(None, bases), ())
    found = [name for name, key in PRODUCTS.items() if key in given]
    if not found:
        raise ValueError(
            f"{type(model).__name__} gives {', '.join(given) or 'no output that is known'}; predictions are made of "
            f"{', '.join(PRODUCTS.values())}, which a model names in its attribute output_kinds."
        )
    return found


@dataclass
class Kept:
    """The kept parts of a model's output for one view.

    Attributes:
        instances: as the model gave them.
        labels: (h, w) the class of each pixel.
        panoptic: (h, w) the segment of each pixel, and the segments.
        inpainted: (3, h, w) the picture with its hole painted, uint8.
        scores: (K,) of the classes of the whole view.
    """

    instances: Instances | None = None
    labels: Tensor | None = None
    panoptic: tuple[Tensor, list[dict[str, Any]] | None] | None = None
    inpainted: Tensor | None = None
    scores: Tensor | None = None


def keep(output: dict[str, Any], products: Sequence[str]) -> Kept:
    """Drops what no product needs; class scores, the largest part of all, become labels where they are."""
    labels = None
    if "semantic" in products:
        scores = output["sem_seg"]  # (C, h, w)
        labels = scores.argmax(dim=0).to(torch.uint8 if len(scores) <= 256 else torch.int16)
    return Kept(
        instances=output["instances"] if "instances" in products else None,
        labels=labels,
        panoptic=output["panoptic_seg"] if "panoptic" in products else None,
        inpainted=output["inpainted"] if "inpainted" in products else None,
        scores=output["class_scores"] if "classes" in products else None,
    )


class LineMaker:
    """Turns the kept outputs of a picture into its line, and writes its label maps.

    Args:
        folder: of the output; maps go to ``semantic/<stem>.png`` and ``panoptic/<stem>.png`` below it.
        classes: of the model.
        threshold: smallest score of a detection.
        is_bgr: whether the model's pictures are blue, green, red.
    """

    def __init__(self, folder: Path, classes: Classes, threshold: float, *, is_bgr: bool = False) -> None:
        self._folder, self._classes, self._threshold, self._is_bgr = folder, classes, threshold, is_bgr

    def line(self, loaded: Loaded, kept: Sequence[Kept]) -> dict[str, Any]:
        """Returns what is known about a picture, for the journal.

        Args:
            loaded: the picture.
            kept: of each of its views.

        Raises:
            ValueError: The model predicts classes that its data set does not have.
        """
        picture = loaded.picture
        line: dict[str, Any] = {
            "index": picture.index,
            "image_id": picture.image_id,
            "file_name": picture.name,
            "stem": picture.stem,
            "height": loaded.size[0],
            "width": loaded.size[1],
        }
        if kept[0].instances is not None:
            found = [one.instances for one in kept if one.instances is not None]
            line["instances"] = self._instances(loaded, found)
            scores = torch.cat([instances.scores for instances in found])
            if not line["instances"] and len(scores):
                line["highest_score"] = float(scores.max())  # what --score-threshold has left out
        if kept[0].labels is not None:
            self._save("semantic", picture.stem, self._labels(loaded, [one.labels for one in kept]))
        if kept[0].panoptic is not None:
            ids, segments = kept[0].panoptic
            line["segments_info"] = self._segments(ids, segments)
            self._save("panoptic", picture.stem, id2rgb(ids.cpu().numpy()))
        if kept[0].inpainted is not None:
            self._save("inpainted", picture.stem, self._painted(loaded, [one.inpainted for one in kept]))
        if kept[0].scores is not None:
            line["classes"] = self._best_classes(kept[0].scores)
        return line

    def _best_classes(self, scores: Tensor) -> list[dict[str, Any]]:
        """The classes that the whole picture may be of, best first, in the data set's ids."""
        values, numbers = scores.float().cpu().topk(min(_BEST_CLASSES, len(scores)))
        pairs = zip(numbers.tolist(), values.tolist())
        return [{"category_id": self._classes.thing_id(number), "score": score} for number, score in pairs]

    def _instances(self, loaded: Loaded, found: list[Instances]) -> list[dict[str, Any]]:
        image_id = loaded.picture.image_id
        if len(found) == 1:
            return whole_results(found[0], image_id, self._classes, self._threshold)
        return tiled_results(found, loaded.tiles, loaded.size, image_id, self._classes, self._threshold)

    def _labels(self, loaded: Loaded, parts: Sequence[Tensor | None]) -> np.ndarray:
        """The data set's label ids (H, W), from the middle of each tile; 16 bits where 8 do not hold them."""
        ids = [key for key, _ in self._classes.labels]
        table = np.array(ids, dtype=np.uint8 if max(ids, default=0) < 256 else np.uint16)
        whole = np.empty(loaded.size, dtype=table.dtype)
        for tile, part in zip(loaded.tiles, parts):
            assert part is not None
            (x0, y0, _, _), (left, top, right, bottom) = tile.box, tile.core
            core = part.cpu().numpy()[top - y0 : bottom - y0, left - x0 : right - x0]
            self._classes.label_id(int(core.max()))  # refuses a class that the table does not have
            whole[top:bottom, left:right] = table[core]
        return whole

    def _painted(self, loaded: Loaded, parts: Sequence[Tensor | None]) -> np.ndarray:
        """The picture (H, W, 3) in RGB, from the middle of each tile."""
        whole = np.empty((*loaded.size, 3), dtype=np.uint8)
        for tile, part in zip(loaded.tiles, parts):
            assert part is not None
            (x0, y0, _, _), (left, top, right, bottom) = tile.box, tile.core
            pixels = part.cpu().numpy().transpose(1, 2, 0)
            whole[top:bottom, left:right] = pixels[top - y0 : bottom - y0, left - x0 : right - x0]
        return whole[:, :, ::-1] if self._is_bgr else whole

    def _segments(self, ids: Tensor, segments: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        """COCO's description of the segments that the map shows, and which of them are things."""
        if segments is None:
            raise ValueError("The model's panoptic map comes without a list of its segments, which the PNG needs.")
        numbers, areas = torch.unique(ids, return_counts=True)
        area = dict(zip(numbers.tolist(), areas.tolist()))
        described = []
        for segment in segments:
            if segment["id"] in area:
                to_id = self._classes.thing_id if segment["isthing"] else self._classes.label_id
                entry = {"id": segment["id"], "category_id": to_id(segment["category_id"]), "area": area[segment["id"]]}
                entry |= {"iscrowd": 0, "isthing": bool(segment["isthing"])}
                described.append(entry | ({"score": segment["score"]} if "score" in segment else {}))
        return described

    def _save(self, product: str, stem: str, pixels: np.ndarray) -> None:
        path = self._folder / product / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
