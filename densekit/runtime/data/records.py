"""The records of registered data sets: loaded, joined, filtered and counted."""

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate
from torch.utils.data import ConcatDataset, Dataset

from densekit.files.proposal_file import add_proposals
from densekit.runtime.data.catalog import DatasetCatalog, MetadataCatalog
from densekit.runtime.data.detection_utils import check_metadata_consistency
from densekit.runtime.structures import BoxMode
from densekit.runtime.utils.file_io import PathManager
from densekit.runtime.utils.logger import log_first_n

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Records | Dataset:
    """Loads data sets and joins their records.

    Args:
        names: Registered names.
        filter_empty: Whether images without any annotation but crowds are left out.
        min_keypoints: Images with fewer labelled keypoints are left out.
        proposal_files: For each data set a file of precomputed proposals.
        check_consistency: Whether the data sets must agree on the class names; the instances are then counted.

    Returns:
        The records; data sets that load as torch data sets are returned as one, as they are.

    Raises:
        ValueError: No names, a data set without images, or nothing left after filtering.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("There is no data set to load; DATASETS.TRAIN and DATASETS.TEST name them.")
    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], Dataset):
        return loaded[0] if len(loaded) == 1 else ConcatDataset(loaded)
    for name, records in zip(names, loaded):
        if not records:
            raise ValueError(f"Data set {name!r} has no images.")
    if proposal_files is not None:
        if len(proposal_files) != len(names):
            raise ValueError(f"There are {len(proposal_files)} proposal files for the {len(names)} data sets {names}.")
        loaded = [load_proposals_into_dataset(*pair) for pair in zip(loaded, proposal_files)]

    joined = list(itertools.chain.from_iterable(loaded))
    if "annotations" in joined[0]:
        if filter_empty:
            joined = filter_images_with_only_crowd_annotations(joined)
        if min_keypoints > 0:
            joined = filter_images_with_few_keypoints(joined, min_keypoints)
        classes = MetadataCatalog.get(names[0]).get("thing_classes")
        if check_consistency and classes is not None:
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(joined, classes)
    if not joined:
        raise ValueError(
            f"No image of {', '.join(names)} is left after filtering: none has annotations that can be learned from. "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False keeps images without objects."
        )
    return joined


def filter_images_with_only_crowd_annotations(dataset_dicts: Records) -> Records:
    """Leaves out images without any annotation but crowds."""
    kept = [r for r in dataset_dicts if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    logger.info("%d images without usable annotations left out, %d kept.", len(dataset_dicts) - len(kept), len(kept))
    return kept


def filter_images_with_few_keypoints(dataset_dicts: Records, min_keypoints_per_image: int) -> Records:
    """Leaves out images with fewer labelled keypoints (visibility above 0) than given."""

    def labelled(record: dict[str, Any]) -> int:
        return sum(v > 0 for a in record["annotations"] for v in a.get("keypoints", ())[2::3])

    kept = [record for record in dataset_dicts if labelled(record) >= min_keypoints_per_image]
    logger.info(
        "%d images with fewer than %d keypoints left out, %d kept.",
        len(dataset_dicts) - len(kept),
        min_keypoints_per_image,
        len(kept),
    )
    return kept


def load_proposals_into_dataset(dataset_dicts: Records, proposal_file: str) -> Records:
    """Adds precomputed proposals to records, best first.

    Args:
        dataset_dicts: Records with ``image_id``.
        proposal_file: Pickled dict of lists over the images: ``ids``, ``boxes`` ((N, 4) arrays) and
            ``objectness_logits`` ((N,) arrays), and one ``bbox_mode`` (xyxy in pixels by default).

    Returns:
        The same records, with ``proposal_boxes``, ``proposal_objectness_logits`` and ``proposal_bbox_mode``.

    Raises:
        ValueError: The file is not of this form, or has no proposals for an image.
    """
    with PathManager.open(proposal_file, "rb") as file:
        add_proposals(dataset_dicts, file, proposal_file, BoxMode)
    return dataset_dicts


def print_instances_class_histogram(dataset_dicts: Records, class_names: Sequence[str]) -> None:
    """Logs how many instances each class has, crowds not counted.

    Raises:
        ValueError: A category id that has no name.
    """
    counts = Counter(a["category_id"] for r in dataset_dicts for a in r["annotations"] if not a.get("iscrowd", 0))
    unnamed = sorted(set(counts) - set(range(len(class_names))))
    if unnamed:
        raise ValueError(f"Category ids {unnamed[:10]} have no class name; there are {len(class_names)} classes.")
    cells = [f"{name} {counts[i]}" for i, name in enumerate(class_names)]
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    log_first_n(
        logging.INFO,
        f"{sum(counts.values())} instances of {len(class_names)} classes in {len(dataset_dicts)} images:\n"
        + tabulate(rows, tablefmt="plain"),
        key="message",
    )
