"""``metrics.json``, one JSON object per line, as a run goes on writing it."""

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run by iteration; a resumed run may have written one twice, of which the last counts.

    Raises:
        ValueError: A line is not JSON, apart from the last, which a run may still be writing.
    """
    if not path.is_file():
        return []
    lines: dict[int, dict[str, Any]] = {}
    text = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(text, start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(text):  # the run was stopped while it wrote
                break
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        iteration = entry.get("iteration")
        if isinstance(iteration, int):
            lines[iteration] = {**lines.get(iteration, {}), **entry}
    return [lines[key] for key in sorted(lines)]
