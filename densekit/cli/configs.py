"""Lists the configurations that densekit brings along, with task, training data and published figure.

  densekit configs                 all of them
  densekit configs mask            those in which the word occurs
  densekit configs keypoints --table    with parameters and FLOPs, which takes a second for each

The names are for --config-file, for _BASE_ in files of your own, and for densekit.train in Python.
"""

import argparse
from typing import Any

_SIZE = (800, 1216)  # pixels of the picture that FLOPs are counted on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit configs``."""
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="occurs in the name, task, data or figure")
    parser.add_argument(
        "--table",
        action="store_true",
        help="add the parameters of the model in millions, and the FLOPs of its backbone on a picture of "
        f"{_SIZE[0]} x {_SIZE[1]} in billions, a multiplication and an addition counting as one",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the table; the exit code is 1 where nothing has the word."""
    from tabulate import tabulate

    from densekit.config_list import list_configs

    found = list_configs(args.word)
    if not found:
        print(f"No configuration has {args.word!r} in its name, task, data or figure.")
        return 1
    headers = ["config", "task", "trained on", "published"]
    rows = [[one.name, one.task, one.data, one.published] for one in found]
    if args.table:
        headers += ["M parameters", "G FLOPs of the backbone"]
        for row in rows:
            row += _size(row[0])
    print(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    return 0


def _size(name: str) -> list[str]:
    """Parameters and FLOPs of a model that holds no numbers, which costs neither memory nor time; "-" if it cannot."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from densekit.config import load_config
    from densekit.d2.modeling import build_model

    cfg = load_config(name, ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    try:
        with torch.device("meta"), torch.no_grad():
            model = build_model(cfg)
            parameters = f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}"
    except (RuntimeError, NotImplementedError):  # a part that computes with its numbers as it is built
        return ["-", "-"]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone: Any = model.eval().backbone
            backbone(torch.empty(1, len(cfg.MODEL.PIXEL_MEAN), *_SIZE, device="meta"))
        return [parameters, f"{counter.get_total_flops() / 2e9:.1f}"]  # torch counts a multiply-add as two
    except (AttributeError, RuntimeError, NotImplementedError):  # no backbone of that name, or one that needs numbers
        return [parameters, "-"]
