"""Makes what training on a public data set needs beside its download, once: pictures of labels and lists of splits.

  densekit prepare pascal_context
  densekit prepare voc_2012_aug --root /data

  ade20k          annotations_detectron2, for other tools: training here reads the download as it is
  pascal_context  VOC2010/SegmentationClassContext and its lists, from VOC2010/trainval/*.mat
  voc_2012_aug    VOC2012/SegmentationClassAug and trainaug.txt, from VOC2012 and sbd/cls/*.mat
  coco_stuff_10k  coco_stuff_10k/annotations_png, from coco_stuff_10k/annotations/*.mat

Whole files are left alone: after an interruption the same command goes on, and a second one ends at once.
docs/semantic_data.md shows the trees. Cityscapes has a command of its own, datasets/prepare_cityscapes.py.
"""

import argparse
import os
import sys
from pathlib import Path

_NAMES = ("ade20k", "pascal_context", "voc_2012_aug", "coco_stuff_10k")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit prepare``."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    parser.add_argument("name", choices=_NAMES, metavar="NAME", help=", ".join(_NAMES))
    parser.add_argument("--root", type=Path, default=root, help="the folder of all data sets (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Makes the files and says how many.

    Raises:
        FileNotFoundError, ValueError: A file of the download is missing or damaged.
    """
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers}: at least 1 is needed.")
    from densekit.data.prepare_semantic import PREPARED

    count = PREPARED[args.name](args.root, args.workers, not args.quiet)
    sys.stdout.write(f"{args.name}: {count} pictures of labels made below {args.root}\n")
    return 0
