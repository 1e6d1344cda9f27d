"""Reads a weight file of any known format and layout and writes it under densekit's (Detectron2's) parameter names.

  densekit convert mask_rcnn_r50.pth mask_rcnn.safetensors

The suffix of each file says its format: .pth, .pkl (model zoos, read only), .pyth (pycls, read only), .safetensors.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit convert``."""
    parser.add_argument("source", type=Path, help="the weight file to read")
    parser.add_argument("target", type=Path, help="the file to write: .pth or .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")


def run(args: argparse.Namespace) -> int:
    """Converts one file.

    Raises:
        FileNotFoundError, ValueError: the source is missing, damaged or of an unknown layout, or the target is unfit.
    """
    from densekit.projects import rooms
    from densekit.weights import convert_file

    list(rooms())  # each knows the names of its published weights

    if args.target.exists() and not args.overwrite:
        raise ValueError(f"{args.target} exists; add --overwrite to replace it.")
    layout, count = convert_file(args.source, args.target)
    print(f"{args.source} ({layout}) -> {args.target}: {count} tensors")
    return 0
