"""Writes the tables of README.md, docs and rooms from the files of ``results``.

A table in a Markdown file stands below the comment ``<!-- results/NAME.json -->``. ``results/README.md`` says what the
files hold.

    python docs/tools/results.py            write all tables anew
    python docs/tools/results.py --check    name those that differ from their file, and end with 1
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densekit.config_list import read_facts

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
MARKER = re.compile(r"<!-- results/(\w+)\.json -->\n\n((?:\|.*\n)*)")
NOT_RUN = "not run"


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Returns the content of each file, by its name without the ending.

    Raises:
        ValueError: a file is no JSON, or two rows have one id.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            files[path.stem] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
    figures_by_id(files)
    return files


def figures_by_id(files: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the figures of every row that has an id.

    Raises:
        ValueError: two rows have one id.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, file in files.items():
        for row in file["rows"]:
            if "id" in row:
                if row["id"] in found:
                    raise ValueError(f"results/{name}.json: a second row has the id {row['id']!r}; choose another")
                found[row["id"]] = row.get("figures", {})
    return found


def render(name: str, files: dict[str, dict[str, Any]]) -> str:
    """Returns the table of a file in Markdown, each line ending with a newline.

    Raises:
        KeyError: a cell names a figure that no row has.
    """
    file, known = files[name], figures_by_id(files)
    keys = list(file["columns"])
    lines = [list(file["columns"].values()), ["---"] * len(keys)]
    for row in file["rows"]:
        try:
            lines.append([_cell(row, key, known) for key in keys])
        except KeyError as error:
            raise KeyError(f"results/{name}.json: no row has the figure {error} of {row}") from error
    return "".join("|" + "|".join(line) + "|\n" if line[0] == "---" else f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: dict[str, Any], key: str, known: dict[str, dict[str, Any]]) -> str:
    text = row.get(key, "")
    if key == "config":
        return f"`{text}`"
    if "run" in row and "figures" not in row and "{" in text:
        return NOT_RUN
    if key == "published" and "config" in row and not text:
        return read_facts(str(ROOT / row["config"])).published or "-"  # as the configuration itself says
    return str(text).format_map({**known, **row.get("figures", {})})


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Yields the Markdown files that may have a table."""
    yield root / "README.md"
    yield from sorted((root / "docs").glob("*.md"))
    yield from sorted((root / "projects").glob("*/README.md"))


def rewrite(text: str, files: dict[str, dict[str, Any]], page: Path) -> str:
    """Returns the text with its tables as the files have them.

    Raises:
        ValueError: a table's file is not there.
    """

    def table(match: re.Match[str]) -> str:
        if match[1] not in files:
            raise ValueError(f"{page}: there is no results/{match[1]}.json")
        gap = "" if match.string[match.end() : match.end() + 1] in ("", "\n") else "\n"
        return f"<!-- results/{match[1]}.json -->\n\n{_links(render(match[1], files), page)}{gap}"

    return MARKER.sub(table, text)


def _links(table: str, page: Path) -> str:
    """Turns the links of a table, which are relative to the root of the tree, into those of a page in a folder."""
    up = "../" * len(page.resolve().relative_to(ROOT).parts[:-1]) if page.resolve().is_relative_to(ROOT) else ""
    return re.sub(r"\]\((?!https?:)", f"]({up}", table)


def main() -> int:
    """Writes or checks the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, files, differ = parser.parse_args().check, read_results(), []
    for page in pages():
        text = page.read_text()
        new = rewrite(text, files, page)
        if new != text:
            differ.append(page)
            if not check:
                page.write_text(new)
    for page in differ:
        print(f"{page.relative_to(ROOT)} {'differs from its results; do: make tables' if check else 'written'}")
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
