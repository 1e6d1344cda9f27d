"""The records of data sets with the proposals of ``DATASETS.PROPOSAL_FILES_*``, on both hosts read as plain data.

Detectron2 reads such files with ``pickle.load``, which runs what they say.
"""

from collections.abc import Sequence
from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.data import get_detection_dataset_dicts
from densekit.d2.structures import BoxMode
from densekit.d2.utils.file_io import PathManager
from densekit.files.proposal_file import add_proposals

__all__ = ["check_test_proposals", "load_records", "load_test_records"]


def load_records(
    names: Sequence[str], files: Sequence[str] | None, *, filter_empty: bool, min_keypoints: int = 0
) -> Any:
    """The records of data sets, joined, or the torch data sets that are registered under these names.

    Args:
        names: of registered data sets.
        files: one of proposals for each of them; None for none.
        filter_empty: whether images without any annotation but crowds are left out.
        min_keypoints: images with fewer labelled keypoints are left out.

    Raises:
        ValueError: there are not as many files, or one is no plain data or lacks an image; the message names it.
    """
    if files is None:
        return get_detection_dataset_dicts(names, filter_empty=filter_empty, min_keypoints=min_keypoints)
    _check_count(names, files)
    joined = []
    for name, path in zip(names, files):  # image ids say what image is meant in one data set only
        records = get_detection_dataset_dicts([name], filter_empty=filter_empty, min_keypoints=min_keypoints)
        if not isinstance(records, list):
            raise ValueError(f"MODEL.LOAD_PROPOSALS: data set {name} is a torch data set, which brings its own.")
        with PathManager.open(path, "rb") as file:
            add_proposals(records, file, path, BoxMode)
        joined += records
    return joined


def load_test_records(cfg: CfgNode, name: str) -> Any:
    """The records of one of ``DATASETS.TEST``, all of them, with proposals if ``MODEL.LOAD_PROPOSALS`` asks for them.

    Raises:
        ValueError: as :func:`load_records`.
    """
    return load_records([name], _test_files(cfg, name), filter_empty=False)


def check_test_proposals(cfg: CfgNode, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Reads the proposals of one of ``DATASETS.TEST``, which would be wanted after hours of training only.

    Raises:
        ValueError: as :func:`load_records`.
        FileNotFoundError: there is no such file.
    """
    for path in _test_files(cfg, name) or ():
        with PathManager.open(path, "rb") as file:
            kept = ("image_id", "width", "height")
            add_proposals([{key: r[key] for key in kept if key in r} for r in records], file, path, BoxMode)


def _test_files(cfg: CfgNode, name: str) -> list[str] | None:
    if not cfg.MODEL.LOAD_PROPOSALS:
        return None
    _check_count(cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST)
    return [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(name)]]


def _check_count(names: Sequence[str], files: Sequence[str]) -> None:
    if len(files) != len(names):
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS: there are {len(files)} files of proposals for the {len(names)} data sets "
            f"{', '.join(names)}. Name one for each in DATASETS.PROPOSAL_FILES_TRAIN and _TEST."
        )
