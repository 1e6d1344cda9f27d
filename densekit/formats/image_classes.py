"""Classes of whole pictures, in one JSON file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from densekit.evaluation.predictions import write_json_list
from densekit.formats.classes import Classes

FILE = "image_classes.json"


def write_classes(folder: Path, lines: Iterable[dict[str, Any]], classes: Classes) -> None:
    """Writes for each picture its ``image_id``, ``file_name`` and ``classes``: id, name and score, best first."""
    names = dict(classes.things)
    write_json_list(folder / FILE, (_entry(line, names) for line in lines))


def _entry(line: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    found = [
        {"category_id": one["category_id"], "name": names[one["category_id"]], "score": one["score"]}
        for one in line["classes"]
    ]
    return {"image_id": line["image_id"], "file_name": line["file_name"], "classes": found}
