"""Proposals for the pictures of a data set: computed in parallel, kept picture by picture, joined into one file.

What a run has finished lies in a folder beside the file, so that a run that was ended goes on where it was.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from densekit.config import load_config
from densekit.data.mapper import build_mapper
from densekit.data.pictures import read_picture
from densekit.engine.loading import build_with_weights
from densekit.evaluation.proposals import save_box_proposals
from densekit.files.atomic import atomic_write
from densekit.ops.object_search import search_objects

__all__ = ["collect_proposals", "searcher", "trained_proposer"]

Found = tuple[np.ndarray, np.ndarray]  # boxes (P, 4) xyxy in pixels of the picture and scores (P,), best first
Proposer = Callable[[Mapping[str, Any]], Found]


def searcher(method: str, *, count: int, width: int, least: int) -> Proposer:
    """A function that searches the picture of a record; see :func:`densekit.ops.object_search.search_objects`.

    Raises:
        ImportError: OpenCV lacks its contributed modules.
    """
    # Fails now and not in the first picture of a thread.
    search_objects(np.zeros((32, 32, 3), np.uint8), method, count=1, width=width, least=least)

    def propose(record: Mapping[str, Any]) -> Found:
        return search_objects(read_picture(record["file_name"], "BGR"), method, count=count, width=width, least=least)

    return propose


def trained_proposer(run: Path, count: int) -> Proposer:
    """A function that asks the proposal generator of a trained run about the picture of a record.

    Args:
        run: OUTPUT_DIR of a model with a proposal generator.
        count: boxes that are kept at most; the run's own limits come first.

    Raises:
        FileNotFoundError: the run has no config.yaml or no weights.
        ValueError: its model proposes nothing.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"--run {run} has no config.yaml: give the OUTPUT_DIR of a trained model.")
    cfg = load_config(str(path), ["OUTPUT_DIR", str(run)])
    model: Any = build_with_weights(cfg, resume=True)
    if getattr(model, "proposal_generator", None) is None or cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(f"--run {run} is a {cfg.MODEL.META_ARCHITECTURE} without a proposal generator of its own.")
    mapper = build_mapper(cfg, is_train=False)

    def propose(record: Mapping[str, Any]) -> Found:
        item = mapper(dict(record))
        with torch.no_grad():
            images = model.preprocess_image([item])
            found = model.proposal_generator(images, model.backbone(images.tensor), None)[0][0]
        height, width = found.image_size
        scale = torch.tensor([item["width"] / width, item["height"] / height] * 2)
        boxes = found.proposal_boxes.tensor.float().cpu() * scale
        logits = found.objectness_logits.float().cpu()
        order = logits.sort(descending=True, stable=True).indices[:count]
        return boxes[order].numpy(), logits[order].numpy()

    return propose


def collect_proposals(
    records: Sequence[Mapping[str, Any]], propose: Proposer, output: Path, *, settings: Mapping[str, Any], workers: int
) -> list[dict[str, Any]]:
    """Proposes for every picture and writes the file.

    Args:
        records: of the data set, with ``image_id`` and ``file_name``.
        propose: from a record to its proposals; called from several threads.
        output: the file, in the form of ``DATASETS.PROPOSAL_FILES_*``.
        settings: what the proposals depend on; a run goes on only with those of the parts that lie there.
        workers: threads.

    Returns:
        Per record ``image_id`` and ``proposals``, in the order of the records.

    Raises:
        ValueError: the unfinished parts are of other settings.
    """
    parts = _open_parts(output, settings)
    paths = [parts / f"{index:08d}.npz" for index in range(len(records))]
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_keep, records[index], propose, paths[index]) for index in missing]
        try:
            done = len(records) - len(missing)
            for task in tqdm(as_completed(waiting), total=len(records), initial=done, desc="proposals", unit="picture"):
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    predictions = []
    for record, path in zip(records, paths):
        with np.load(path) as part:
            predictions.append({"image_id": record["image_id"], "proposals": (part["boxes"], part["scores"])})
    save_box_proposals(output, predictions)
    shutil.rmtree(parts)
    return predictions


def _open_parts(output: Path, settings: Mapping[str, Any]) -> Path:
    parts = output.with_name(output.name + ".parts")
    parts.mkdir(exist_ok=True)
    stated = parts / "settings.json"
    text = json.dumps(settings, sort_keys=True)
    if stated.is_file() and stated.read_text() != text:
        raise ValueError(
            f"{parts} holds unfinished proposals made with {stated.read_text()}, not with {text}. Remove the folder, "
            "or give another --output."
        )
    with atomic_write(stated) as file:
        file.write(text)
    return parts


def _keep(record: Mapping[str, Any], propose: Proposer, path: Path) -> None:
    boxes, scores = propose(record)
    with atomic_write(path, "wb", durable=False) as file:
        np.savez(file, boxes=boxes, scores=scores)
