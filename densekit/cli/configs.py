"""Lists the configurations that densekit brings along, with task, training data and published figure.

  densekit configs                 all of them
  densekit configs mask            those in which the word occurs
  densekit configs keypoints --table    with parameters and FLOPs, which takes some seconds for each

The names are for --config-file, for _BASE_ in files of your own, and for densekit.train in Python.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densekit.config_list import ConfigFacts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit configs``."""
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="occurs in the name, task, data or figure")
    parser.add_argument(
        "--table",
        action="store_true",
        help="add the parameters of the whole model in millions and the FLOPs of a picture in billions, a "
        "multiplication and an addition counting as one, the size of that picture, and both as published",
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
    reasons = _add_sizes(found, headers, rows) if args.table else {}
    print(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    for name, reason in reasons.items():
        print(f"{name}: no FLOPs, {reason}")
    return 0


def _add_sizes(found: Sequence["ConfigFacts"], headers: list[str], rows: Sequence[list[str]]) -> dict[str, str]:
    """Adds the columns of ``--table``; returns why the FLOPs of a configuration could not be counted."""
    from densekit.inference.complexity import count_each

    headers += ["M parameters", "G FLOPs", "at", "published size"]
    reasons = {}
    for row, one in zip(rows, count_each(found)):
        size, facts = one.complexity, one.facts
        operations = "-" if size.operations is None else f"{size.operations / 1e9:.2f}"
        row += [f"{size.parameters / 1e6:.2f}", operations, " x ".join(map(str, one.picture)), facts.published_size]
        if size.reason:
            reasons[facts.name] = size.reason
    return reasons
