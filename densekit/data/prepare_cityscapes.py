"""Makes what training on Cityscapes needs beside the download: labelTrainIds pictures and panoptic files.

The files are those of cityscapesScripts' csCreateTrainIdLabelImgs and csCreatePanopticImgs. Complete ones are left
alone, so a run that was interrupted goes on where it stopped, and one that has nothing to do ends at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import Label, id2label
from cityscapesscripts.helpers.labels import labels as LABELS
from scipy import ndimage
from tqdm import tqdm

from densekit.data.labels import IGNORE, read_values
from densekit.ops.files import atomic_write
from densekit.ops.panoptic_png import id2rgb

__all__ = ["main", "make_panoptic", "make_train_ids"]

Json = dict[str, Any]

_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PANOPTIC_SPLITS = ("train", "val", "test")  # nothing is annotated in the last
_EPILOG = """\
Makes, in a tree with leftImg8bit and gtFine (or gtCoarse) as they are downloaded,
  gt*/<split>/<city>/*_labelTrainIds.png               from *_labelIds.png, of all splits
  gtFine/cityscapes_panoptic_{train,val,test}{.json,/} from *_instanceIds.png

  python datasets/prepare_cityscapes.py
  python datasets/prepare_cityscapes.py --root datasets/streets/cityscapes
"""


def make_train_ids(folder: Path, workers: int, progress: bool) -> int:
    """Makes the labelTrainIds pictures below ``gtFine`` or ``gtCoarse``.

    Returns:
        How many were made.

    Raises:
        ValueError: A picture of label ids cannot be read, or has a value that is no label.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    for label in LABELS:
        if label.id >= 0 and 0 <= label.trainId < IGNORE:
            table[label.id] = label.trainId
    known = [label.id for label in LABELS if label.id >= 0]

    def make(path: Path) -> None:
        ids = read_values(str(path))
        if not np.isin(np.flatnonzero(np.bincount(ids.ravel())), known).all():
            raise ValueError(f"{path} has the value {ids.max()}, which is no label id of Cityscapes. Unpack it anew.")
        _write_png(_train_ids_of(path), table[ids])

    todo = [path for path in sorted(folder.glob("*/*/*_labelIds.png")) if not _is_complete(_train_ids_of(path))]
    _each(make, todo, workers, f"{folder.name} labelTrainIds" if progress else None)
    return len(todo)


def make_panoptic(folder: Path, split: str, workers: int, progress: bool) -> int:
    """Makes the panoptic PNGs of a split of ``gtFine``, and then their JSON.

    Returns:
        How many PNGs were made.

    Raises:
        ValueError: A picture of instance ids cannot be read, or has a value that is no label.
    """
    target = folder / f"cityscapes_panoptic_{split}"
    document = target.with_suffix(".json")
    sources = sorted((folder / split).glob("*/*_instanceIds.png"))
    made = [target / path.name.replace("_instanceIds", "_panoptic") for path in sources]
    missing = {path for path in made if not _is_complete(path)}
    if not sources or (not missing and document.is_file()):
        return 0
    target.mkdir(exist_ok=True)

    def make(pair: tuple[Path, Path]) -> tuple[Json, Json]:
        source, png = pair
        ids = read_values(str(source))
        segments = _segments(source, ids)
        if png in missing:
            keep = np.zeros(int(ids.max()) + 1, dtype=np.int32)
            keep[[segment["id"] for segment in segments]] = [segment["id"] for segment in segments]
            _write_png(png, id2rgb(keep[ids])[..., ::-1])  # BGR
        image_id = source.name.removesuffix("_gtFine_instanceIds.png")
        file_name = source.name.replace("_instanceIds.png", "_leftImg8bit.png")
        image = {"id": image_id, "width": ids.shape[1], "height": ids.shape[0], "file_name": file_name}
        return image, {"image_id": image_id, "file_name": png.name, "segments_info": segments}

    pairs = _each(make, list(zip(sources, made)), workers, f"panoptic {split}" if progress else None)
    content = {
        "images": [image for image, _ in pairs],
        "annotations": [annotation for _, annotation in pairs],
        "categories": [_category(label) for label in LABELS if not label.ignoreInEval],
    }
    with atomic_write(document) as file:
        json.dump(content, file, sort_keys=True)
    return len(missing)


def _segments(source: Path, ids: np.ndarray) -> list[Json]:
    """The entry of every segment that the benchmark counts, by id."""
    counts = np.bincount(ids.ravel())
    segments = []
    for value, window in enumerate(ndimage.find_objects(ids + 1)):  # 0 would be background
        if window is None:
            continue
        label = id2label.get(value if value < 1000 else value // 1000)
        if label is None:
            raise ValueError(f"{source} has the instance id {value}, which is no label of Cityscapes. Unpack it anew.")
        if label.ignoreInEval:
            continue
        rows, columns = window
        segments.append(
            {
                "id": value,
                "category_id": label.id,
                "area": int(counts[value]),
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "iscrowd": int(value < 1000 and label.hasInstances),
            }
        )
    return segments


def _category(label: Label) -> Json:
    return {
        "id": label.id,
        "name": label.name,
        "color": label.color,
        "supercategory": label.category,
        "isthing": int(label.hasInstances),
    }


def _train_ids_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))


def _is_complete(path: Path) -> bool:
    """Whether a PNG is there to its end; other tools leave the beginning of one when they are stopped."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_PNG_END)))
        return file.read() == _PNG_END


def _write_png(path: Path, picture: np.ndarray) -> None:
    _, data = cv2.imencode(".png", picture)
    with atomic_write(path, "wb", durable=False) as file:
        file.write(data.tobytes())


def _each(make: Callable[[Any], Any], items: Sequence[Any], workers: int, title: str | None) -> list[Any]:
    """Applies a function in threads: decoding and encoding pictures leaves the interpreter free."""
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        return list(tqdm(pool.map(make, items), total=len(items), desc=title, unit="image", disable=title is None))
    finally:
        pool.shutdown(cancel_futures=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="prepare_cityscapes.py",
        description="Makes what training on Cityscapes needs beside the download.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "cityscapes"
    parser.add_argument("--root", type=Path, default=root, help="the tree (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    folders = [args.root / kind for kind in ("gtFine", "gtCoarse") if (args.root / kind).is_dir()]
    try:
        if not folders:
            raise FileNotFoundError(
                f"{args.root} has neither gtFine nor gtCoarse. Unpack gtFine_trainvaltest.zip there, or name the tree "
                "with --root."
            )
        for folder in folders:
            count = make_train_ids(folder, args.workers, not args.quiet)
            sys.stdout.write(f"{folder}: {count} labelTrainIds made\n")
        for split in _PANOPTIC_SPLITS if folders[0].name == "gtFine" else ():
            count = make_panoptic(folders[0], split, args.workers, not args.quiet)
            sys.stdout.write(f"{folders[0]}/cityscapes_panoptic_{split}: {count} panoptic PNGs made\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"prepare_cityscapes: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
