"""The class of each pixel that a model's output stands for, whether it scores classes or lists segments.

C: classes of the data set's label maps, its ``stuff_classes``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from densekit.d2.data import Metadata
from densekit.data.identity import shares_numbers
from densekit.evaluation.panoptic_evaluator import listed_segments
from densekit.metrics.semantic_scores import NOTHING

__all__ = ["PIXEL_OUTPUTS", "predicted_classes"]

PIXEL_OUTPUTS = frozenset({"sem_seg", "panoptic_seg"})  # what :func:`predicted_classes` reads

_ALL_THINGS = 0  # the class of every thing in label maps that tell stuff apart alone


def predicted_classes(output: Mapping[str, Any], metadata: Metadata) -> np.ndarray:
    """Returns the class of each pixel (H, W).

    The best class of ``"sem_seg"`` where there is one, which Detectron2 judges, and else the class of each pixel's
    segment in ``"panoptic_seg"``, :data:`~densekit.metrics.semantic_scores.NOTHING` in void. In label maps with one
    class for all things, segments of things have that class.

    Args:
        output: Of a model, for one image; it has one of :data:`PIXEL_OUTPUTS`.
        metadata: Of the data set.

    Raises:
        ValueError: A segment is of a class that the data set does not have.
    """
    if "sem_seg" in output:
        scores = output["sem_seg"]  # (C, H, W)
        small = torch.uint8 if len(scores) <= 256 else torch.int32  # what has to leave the device
        return scores.argmax(dim=0).to(small).cpu().numpy()
    ids, segments = listed_segments(output["panoptic_seg"], metadata)
    numbers = _class_numbers(metadata)
    table = np.full(int(ids.max(initial=0)) + 1, NOTHING, dtype=np.int32)
    for segment in segments:
        if segment["category_id"] not in numbers:
            raise ValueError(
                f"the model predicts the category {segment['category_id']}; the data set has {sorted(numbers)}."
            )
        table[segment["id"]] = numbers[segment["category_id"]]
    return table[ids]


def _class_numbers(metadata: Metadata) -> dict[int, int]:
    """From the data set's category ids to the classes of its label maps."""
    things, stuff = (metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {} for kind in ("thing", "stuff"))
    joint = shares_numbers(metadata)
    return dict(stuff) | {key: number if joint else _ALL_THINGS for key, number in things.items()}
