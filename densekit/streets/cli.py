"""The command line of the generator; ``datasets/make_streets.py`` calls it."""

import argparse
import os
import sys
from pathlib import Path

from densekit.streets.write import write_streets

_EPILOG = """\
The folder then holds the same scenes as
  train/ val/                                  pictures (PNG)
  annotations/instances_{train,val}.json       COCO instances: boxes, polygons, crowds as RLE
  annotations/person_keypoints_{train,val}.json  COCO person keypoints
  annotations/panoptic_{train,val}{.json,/}    COCO panoptic
  cityscapes/{leftImg8bit,gtFine,gtCoarse}/    a Cityscapes tree with real label ids, its panoptic files, coarse labels
  streets.json                                 the parameters; written last

Registered as streets_{train,val}, keypoints_streets_{train,val} and further names: see datasets/README.md.
The same parameters give the same bytes; a second call finds the files and returns at once.

  python datasets/make_streets.py
  python datasets/make_streets.py --train 20 --val 5 --width 256 --height 128 --root /tmp/streets
"""


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make_streets.py",
        description="Makes the built-in data set: synthetic street scenes with exact labels.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "streets"
    parser.add_argument("--root", type=Path, default=root, help="folder to make (default: %(default)s)")
    parser.add_argument(
        "--train", type=_count, default=200, metavar="N", help="training pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--val", type=_count, default=50, metavar="N", help="validation pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--width", type=_count, default=512, metavar="PX", help="of the pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--height", type=_count, default=256, metavar="PX", help="of the pictures (default: %(default)s)"
    )
    parser.add_argument("--seed", type=_count, default=0, help="another seed, other scenes (default: %(default)s)")
    parser.add_argument("--workers", type=_count, default=None, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set made with other parameters")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = vars(_parser().parse_args(arguments))
    root, quiet = args.pop("root"), args.pop("quiet")
    try:
        folder = write_streets(root, **args, progress=not quiet)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"make_streets: {error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0
