"""Checks of a data set's files before a run begins: there, whole, and of the size in their records."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from densekit.d2.utils.file_io import PathManager
from densekit.data.labels import load_sem_seg
from densekit.data.pictures import name_hint
from densekit.data.regions import in_threads

__all__ = ["check_files", "check_listed_once", "overlap_note"]

Records = Sequence[dict[str, Any]]

_LABELS = ("sem_seg_file_name", "pan_seg_file_name")
_READ = 1000  # pictures that are read before a run; further ones end the step that meets them, with their name
_DECODED = 16  # label maps whose values are looked at


def check_files(name: str, records: Records, *, labels: bool) -> None:
    """Refuses a data set with files that a run would stumble over.

    Every file must be there. Of a thousand pictures spread over the data set it is looked at whether they are whole and
    of the size that their record says; the values of a few label maps are looked at, too.

    Args:
        name: Registered name.
        records: Its records.
        labels: Whether the run reads label maps.

    Raises:
        FileNotFoundError: A file is missing; the message counts how many.
        ValueError: A picture or label map cannot be used.
    """
    keys = ("file_name", *(_LABELS if labels else ()))
    there = _Folders()
    for key in keys:
        missing = [record for record in records if key in record and not there.has(record[key])]
        if missing:
            raise FileNotFoundError(_missing(name, missing, key))
    in_threads(_check_picture, _spread(records, _READ))
    if labels:
        in_threads(load_sem_seg, _spread([r for r in records if "sem_seg_file_name" in r], _DECODED))


def check_listed_once(name: str, records: Records) -> None:
    """Refuses to train on a file that two images list, each with a part of its objects as background.

    Raises:
        ValueError: There is such a file.
    """
    if not any("annotations" in record for record in records):
        return
    counts: Counter[str] = Counter(os.path.normpath(record["file_name"]) for record in records if "file_name" in record)
    path, count = max(counts.items(), key=lambda item: item[1], default=("", 1))
    if count > 1:
        ids = [r.get("image_id") for r in records if os.path.normpath(r["file_name"]) == path]
        raise ValueError(
            f"Data set {name!r} lists the file {path} as {count} images (ids {', '.join(map(str, ids[:5]))}): each "
            "would be trained on with the objects of the others as background. densekit check --fix merges them."
        )


def overlap_note(train: Mapping[str, Records], test: Mapping[str, Records]) -> str:
    """Says how many pictures are trained on and tested on; "" for none."""
    known = {os.path.realpath(r["file_name"]): name for name, records in train.items() for r in records}
    for name, records in test.items():
        both = [r["file_name"] for r in records if os.path.realpath(r["file_name"]) in known]
        if both:
            other = known[os.path.realpath(both[0])]
            return (
                f"{len(both)} of {len(records)} pictures of DATASETS.TEST {name!r} are trained on ({other!r}), such as "
                f"{both[0]}: figures on them say nothing about new pictures."
            )
    return ""


class _Folders:
    """Contents of folders, each listed once: on network disks asking for each file takes minutes."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder or "."))
            except OSError:
                self._names[folder] = set()
        return name in self._names[folder] or PathManager.isfile(path)


def _missing(name: str, records: Records, key: str) -> str:
    record = records[0]
    path = record[key]
    more = f" {len(records)} files of data set {name!r} are missing." if len(records) > 1 else ""
    if key != "file_name":
        return f"Label map {path} of data set {name!r} does not exist.{more} Unpack or make the label maps anew."
    return (
        f"Image {path} (image id {record.get('image_id')}) does not exist.{more} The folder is the data set's "
        f"image_root, the rest is file_name in its annotation file. {name_hint(path)}"
    ).rstrip()


def _spread(records: Records, count: int) -> Records:
    """So many records, from the first to the last."""
    if len(records) <= count:
        return records
    return [records[k * (len(records) - 1) // (count - 1)] for k in range(count)]


def _check_picture(record: dict[str, Any]) -> None:
    from densekit.data.inspect.pictures import read_picture  # as ``check`` reads it; its package imports this module

    path = record["file_name"]
    if not os.path.isfile(path):
        return  # on another file system; whoever reads it says what is wrong
    facts = read_picture(path)
    which = f"Image {path} (image id {record.get('image_id')})"
    if facts.problem and facts.problem != "image-damaged":
        raise ValueError(
            f"{which} cannot be read: {facts.detail}. Copy or download it again, or take it out of the annotation file."
        )
    size = facts.upright_size
    said = (record.get("width"), record.get("height"))
    if size is None or None in said or said == size:
        return
    from densekit.data.mapper import size_message

    raise ValueError(size_message(path, size, said))
