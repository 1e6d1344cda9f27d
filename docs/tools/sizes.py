"""Counts parameters and FLOPs of the configurations whose size is published, into results/sizes.json.

    python docs/tools/sizes.py            all of them, some minutes of one core
    python docs/tools/sizes.py swin       those with the word in their name; the other rows stay

``python docs/tools/results.py`` then writes the table of docs/sizes.md.
"""

import argparse
import datetime
import json
import platform
from typing import Any

import torch

from densekit.config_list import list_configs
from densekit.files.atomic import atomic_write
from densekit.inference.complexity import Counted, count_each
from results import RESULTS

_FILE = RESULTS / "sizes.json"
_COLUMNS = {"config": "configuration", "size": "published", "counted": "here", "picture": "picture"}


def row_of(one: Counted) -> dict[str, Any]:
    """The row of the table for a configuration."""
    size, published = one.complexity, one.facts.published_size.partition(" at ")
    figures: dict[str, Any] = {"parameters": round(size.parameters / 1e6, 2)}
    counted = "{parameters} M"
    if size.operations is not None:
        figures["operations"] = round(size.operations / 1e9, 2)
        counted += ", {operations} G"
    return {
        "config": f"configs/{one.facts.name}",
        "size": published[0],
        "counted": counted + (f" ({size.reason})" if size.reason else ""),
        "picture": published[2],
        "figures": figures,
    }


def main() -> None:
    """Counts, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="occurs in the name of a configuration")
    word = parser.parse_args().word
    found = [one for one in list_configs() if one.published_size and word in one.name]
    known = json.loads(_FILE.read_text())["rows"] if _FILE.exists() else []
    rows = {row["config"]: row for row in known}
    for one in count_each(found):
        row = row_of(one)
        rows[row["config"]] = row
    file = {
        "title": "Parameters and FLOPs",
        "columns": _COLUMNS,
        "command": "python docs/tools/sizes.py",
        "machine": "any, since nothing is timed",
        "date": datetime.date.today().isoformat(),
        "seeds": None,
        "commit": "the state before the commit that wrote this file",
        "software": f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}",
        "rows": [rows[name] for name in sorted(rows)],
    }
    with atomic_write(_FILE) as target:
        target.write(json.dumps(file, indent=1) + "\n")


if __name__ == "__main__":
    main()
