"""Files of precomputed object proposals, read without running anything that they name."""

import io
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from densekit.files.unpickling import ArrayUnpickler, UnsafePickleError

__all__ = ["add_proposals"]


def add_proposals(records: list[dict[str, Any]], file: IO[bytes], name: str, box_mode: Callable[[Any], Any]) -> None:
    """Adds ``proposal_boxes``, ``proposal_objectness_logits`` and ``proposal_bbox_mode`` to records, best first.

    Args:
        records: with ``image_id``.
        file: a pickled dict of lists over the images: ``ids``, ``boxes`` ((N, 4) arrays) and ``objectness_logits``
            ((N,) arrays), and one ``bbox_mode`` (xyxy in pixels by default).
        name: of the file, for messages.
        box_mode: the host's ``BoxMode``.

    Raises:
        ValueError: The file is not of this form, asks for anything but plain data, lacks an image, has a number that is
            not finite, or boxes beside the picture, as the file of another data set has.
    """
    proposals = _read(file, name, box_mode)
    position = {str(image_id): i for i, image_id in enumerate(proposals["ids"])}
    mode = box_mode(proposals.get("bbox_mode", 0))  # XYXY_ABS
    for record in records:
        index = position.get(str(record["image_id"]))
        if index is None:
            raise ValueError(f"Proposal file {name} has no proposals for image id {record['image_id']}.")
        # Records are pickled for the loader's processes, which the class of an array that was read safely is not for.
        boxes, logits = (np.asarray(proposals[key][index]) for key in ("boxes", "objectness_logits"))
        _check(boxes, logits, record, name, xyxy=mode == box_mode(0))
        order = logits.argsort()[::-1]
        record["proposal_boxes"] = boxes[order]
        record["proposal_objectness_logits"] = logits[order]
        record["proposal_bbox_mode"] = mode


def _check(boxes: np.ndarray, logits: np.ndarray, record: dict[str, Any], name: str, *, xyxy: bool) -> None:
    """Refuses the proposals of one image that would only be felt later, or never."""
    where = f"Proposal file {name}, image id {record['image_id']}"
    if len(boxes) != len(logits) or (len(boxes) and (boxes.ndim != 2 or boxes.shape[1] < 4)):
        raise ValueError(f"{where}: boxes of shape {boxes.shape} and scores of shape {logits.shape} do not fit.")
    for what, values in (("box", boxes), ("score", logits)):
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: a {what} is not finite. Write the file anew.")
    if xyxy and len(boxes) and boxes.shape[1] == 4 and "width" in record and "height" in record:
        beside = (boxes[:, 0] > record["width"]) | (boxes[:, 1] > record["height"]) | (boxes[:, 2:4] < 0).any(axis=1)
        if beside.any():
            raise ValueError(
                f"{where}: {beside.sum()} of {len(boxes)} boxes lie beside the picture of {record['width']} x "
                f"{record['height']} pixels. Is it the file of another data set?"
            )


def _read(file: IO[bytes], name: str, box_mode: Callable[[Any], Any]) -> dict[str, Any]:
    modes = {(f"{host}.structures.boxes", "BoxMode"): box_mode for host in ("densekit.runtime", "detectron2")}
    try:
        found = ArrayUnpickler(io.BytesIO(file.read()), also=modes).load()
    except UnsafePickleError as error:
        raise ValueError(
            f"Proposal file {name} cannot be read: it asks for {error}, and only numpy arrays, lists and "
            "dictionaries are read."
        ) from error
    except ArrayUnpickler.DAMAGED as error:
        raise ValueError(f"Proposal file {name} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Proposal file {name} holds no dictionary but a {type(found).__name__}.")
    # Files of Detectron (1) use other names.
    names = {"indexes": "ids", "scores": "objectness_logits"}
    renamed = {names.get(str(key), str(key)): value for key, value in found.items()}
    missing = {"ids", "boxes", "objectness_logits"} - set(renamed)
    if missing:
        raise ValueError(f"Proposal file {name} lacks {', '.join(sorted(missing))}; it has {sorted(renamed)}.")
    counts = {key: len(renamed[key]) for key in ("ids", "boxes", "objectness_logits")}
    if len(set(counts.values())) > 1:
        raise ValueError(f"Proposal file {name} has lists for different numbers of images: {counts}. Write it anew.")
    return renamed
