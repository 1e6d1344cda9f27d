"""Makes what training on Cityscapes needs beside the download: labelTrainIds pictures and panoptic files.

The files are those of cityscapesScripts' csCreateTrainIdLabelImgs and csCreatePanopticImgs. Complete ones are left
alone, so a run that was interrupted goes on where it stopped, and one that has nothing to do ends at once.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import labels as LABELS

from densekit.data.labels import IGNORE, read_values
from densekit.data.prepared_pictures import for_each, is_complete, write_png
from densekit.files.atomic import atomic_write
from densekit.files.cityscapes_files import (
    panoptic_colours,
    panoptic_document,
    panoptic_folder,
    panoptic_png_name,
    panoptic_records,
)

__all__ = ["main", "make_panoptic", "make_train_ids"]

Json = dict[str, Any]

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
        write_png(_train_ids_of(path), table[ids])

    todo = [path for path in sorted(folder.glob("*/*/*_labelIds.png")) if not is_complete(_train_ids_of(path))]
    for_each(make, todo, workers, f"{folder.name} labelTrainIds" if progress else None)
    return len(todo)


def make_panoptic(folder: Path, split: str, workers: int, progress: bool) -> int:
    """Makes the panoptic PNGs of a split of ``gtFine``, and then their JSON.

    Returns:
        How many PNGs were made.

    Raises:
        ValueError: A picture of instance ids cannot be read, or has a value that is no label.
    """
    target = panoptic_folder(folder, split)
    document = target.with_suffix(".json")
    sources = sorted((folder / split).glob("*/*_instanceIds.png"))
    made = [target / panoptic_png_name(path) for path in sources]
    missing = {path for path in made if not is_complete(path)}
    if not sources or (not missing and document.is_file()):
        return 0
    target.mkdir(exist_ok=True)

    def make(pair: tuple[Path, Path]) -> tuple[Json, Json]:
        source, png = pair
        ids = read_values(str(source))
        image, annotation = panoptic_records(source, ids)
        if png in missing:
            write_png(png, panoptic_colours(ids, annotation)[..., ::-1])  # BGR
        return image, annotation

    pairs = for_each(make, list(zip(sources, made)), workers, f"panoptic {split}" if progress else None)
    with atomic_write(document) as file:
        json.dump(panoptic_document(pairs), file, sort_keys=True)
    return len(missing)


def _train_ids_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))


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
