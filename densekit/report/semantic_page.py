"""Page data of an evaluation of semantic segmentation, from the label maps that the evaluator kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from densekit.d2.data import MetadataCatalog
from densekit.data.labels import IGNORE, load_sem_seg, read_values
from densekit.data.panoptic import with_label_map
from densekit.data.semantic_colours import chosen_colours
from densekit.evaluation.cityscapes import CityscapesSemSegEvaluator
from densekit.evaluation.cityscapes import frames as cityscapes
from densekit.evaluation.cityscapes.semantic_evaluator import UNLABELED
from densekit.evaluation.sem_seg import label_ids, nothing_id, png_names
from densekit.metrics.contours import count_contours
from densekit.metrics.semantic_scores import NOTHING, count_pixels
from densekit.metrics.semantic_tally import ImageScores, SemanticTally
from densekit.report.confusion import confusion_data
from densekit.report.run_files import RunFiles

__all__ = ["Semantic", "SemanticImage", "boundary_results", "read_semantic", "semantic_data"]


@dataclass(frozen=True)
class SemanticImage:
    """One image.

    Attributes:
        record: of the data set, with ``file_name`` and ``sem_seg_file_name``.
        prediction: PNG of the predicted label ids.
        scores: its own.
    """

    record: Mapping[str, Any]
    prediction: Path
    scores: ImageScores


@dataclass(frozen=True)
class Semantic:
    """An evaluation of semantic segmentation.

    Attributes:
        classes: their names.
        colours: RGB for each, 0 to 255.
        images: those with label maps.
        tally: of all images.
        ids: (C + 1,) the data set's id of each class, as the kept PNGs have them, and the value where there is none.
    """

    classes: list[str]
    colours: list[tuple[int, int, int]]
    images: list[SemanticImage]
    tally: SemanticTally
    ids: np.ndarray

    def maps(self, image: SemanticImage) -> tuple[np.ndarray, np.ndarray]:
        """Returns the annotated and the predicted class of each pixel (H, W)."""
        return load_sem_seg(image.record), _classes_of(image.prediction, self.ids)


def read_semantic(run: RunFiles, records: Sequence[Mapping[str, Any]]) -> Semantic | None:
    """Compares the kept label maps with the data set's; None where there are none, or no label maps to compare with.

    Raises:
        FileNotFoundError: A kept label map is missing.
        ValueError: A map does not fit the data set.
    """
    records = [record for record in map(with_label_map, records) if "sem_seg_file_name" in record]
    metadata = MetadataCatalog.get(run.dataset)
    names = list(metadata.get("stuff_classes") or ())
    found = _kept_maps(run, records, names) if records and names else None
    if found is None:
        return None
    files, ids = found
    ignore = metadata.get("ignore_label", IGNORE)
    images, tally = [], SemanticTally(len(names))
    for record in tqdm(records, desc="label maps", unit="image", disable=None):
        path = files[record["file_name"]]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the kept prediction of {record['file_name']}.")
        maps = _classes_of(path, ids), load_sem_seg(record)
        counts, contours = (count(*maps, len(names), ignore) for count in (count_pixels, count_contours))
        images.append(SemanticImage(record, path, tally.add(counts, contours)))
    return Semantic(names, chosen_colours(metadata.get("stuff_colors"), len(names)), images, tally, ids)


def semantic_data(semantic: Semantic) -> dict[str, Any]:
    """Returns what the page's script draws."""
    return {"confusion": confusion_data([semantic.tally.confusion])}


def boundary_results(semantic: Semantic) -> dict[str, float]:
    """Returns the boundary F1 as the evaluator names it, 0 to 100, which has it where it was asked for boundaries."""
    values, mean = semantic.tally.boundary_f
    return {"mBoundaryF": 100 * mean} | {f"BoundaryF-{name}": 100 * v for name, v in zip(semantic.classes, values)}


def _kept_maps(
    run: RunFiles, records: Sequence[Mapping[str, Any]], names: list[str]
) -> tuple[dict[str, Path], np.ndarray] | None:
    """Returns the kept PNG of each image, and the id of each class in them."""
    files = [str(record["file_name"]) for record in records]
    if (run.inference / "sem_seg").is_dir():
        ids = label_ids(MetadataCatalog.get(run.dataset), len(names))
        kept = {name: run.inference / "sem_seg" / png for name, png in png_names(files).items()}
        return kept, np.append(ids, nothing_id(ids))
    folder = run.inference / CityscapesSemSegEvaluator.folder_name
    if folder.is_dir():
        ids = np.array([*cityscapes.label_ids(names, run.dataset), UNLABELED])
        return {name: folder / f"{cityscapes.frame_of(name)}_pred.png" for name in files}, ids
    return None


def _classes_of(path: Path, ids: np.ndarray) -> np.ndarray:
    """Reads a kept map and turns the data set's ids into class numbers."""
    values = read_values(str(path))
    numbers = np.full(max(int(values.max(initial=0)), int(ids.max())) + 1, NOTHING - 1, dtype=np.int64)  # no class
    numbers[ids] = [*range(len(ids) - 1), NOTHING]
    return numbers[values]
