"""The tables of README, docs and rooms are those of the files in ``results``, and what these name exists."""

import json
import re

import pytest

from densekit.projects import PROJECTS
from docs.tools import results

FILES = results.read_results()
ROWS = [(name, file, row) for name, file in FILES.items() for row in file["rows"]]
MEASURED = [(name, file, row) for name, file, row in ROWS if "figures" in row]


@pytest.mark.parametrize("page", list(results.pages()), ids=lambda page: str(page.relative_to(results.ROOT)))
def test_tables_are_those_of_the_results(page):
    text = page.read_text()
    assert results.rewrite(text, FILES, page) == text, "do: make tables"


def test_a_changed_figure_is_noticed():
    page = results.ROOT / "docs" / "benchmarks.md"
    text = page.read_text()
    changed = text.replace("box AP 50.1, mask AP 31.2", "box AP 51.1, mask AP 31.2")
    assert changed != text and results.rewrite(changed, FILES, page) == text


def test_every_file_is_shown_somewhere():
    shown = {name for page in results.pages() for name, _ in results.MARKER.findall(page.read_text())}
    assert shown == set(FILES)


@pytest.mark.parametrize("system", [name for name in PROJECTS if name != "_template"])
def test_a_room_shows_its_results(system):
    assert f"<!-- results/{system}.json -->" in (results.ROOT / "projects" / system / "README.md").read_text()


def test_every_configuration_named_exists():
    named = {
        (name, config)
        for name, file, row in ROWS
        for config in [
            *row.get("configs", []),
            *re.findall(r"configs/[\w./-]+\.yaml", " ".join(str(value) for value in [*file.values(), *row.values()])),
        ]
    }
    missing = [f"results/{name}.json: {config}" for name, config in named if not (results.ROOT / config).is_file()]
    assert named and not missing, missing


def test_what_was_measured_says_how_where_and_when():
    for name, file, row in MEASURED:
        for key in ("command", "machine", "date", "seeds", "commit"):
            assert key in row or key in file, f"results/{name}.json: {row.get('id') or row} lacks {key!r}"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", str(row.get("date") or file.get("date"))), row


def test_rows_quote_their_figures_and_type_none_besides():
    for name, file, row in MEASURED:
        shown = " ".join(str(row.get(key, "")) for key in file["columns"])
        unused = [key for key in row["figures"] if f"{{{key}}}" not in shown and not _quoted(row, key)]
        assert not unused, f"results/{name}.json: {row.get('id')}: {unused}"


def _quoted(row: dict, key: str) -> bool:
    return "id" in row and any(f"{{{row['id']}[{key}]}}" in str(other) for _, _, other in ROWS)


def test_rows_of_another_rows_figures_name_one_that_exists():
    known = results.figures_by_id(FILES)
    assert all(row["of"] in known for _, _, row in ROWS if "of" in row)


def test_what_can_be_measured_again_names_its_data_and_has_figures_in_its_cells():
    planned = [row for _, _, row in ROWS if "run" in row]
    assert planned
    for row in planned:
        keys = {"config", "data", "opts", "metrics", "minutes", "seeds"}
        assert {"config", "metrics"} <= set(row["run"]) <= keys, row["id"]
        spreads = ["", "_spread"] if "seeds" in row["run"] else [""]
        wanted = [f"{{{name}{end}}}" for name in row["run"]["metrics"] for end in spreads]
        assert all(one in json.dumps(row) for one in wanted), row["id"]
        assert len(row["run"].get("seeds", [0, 1])) > 1, row["id"]


def test_a_row_that_was_not_measured_yet_says_so():
    row = {"what": "a model", "here": "AP {ap}", "run": {"config": "x.yaml", "metrics": {"ap": "bbox/AP"}}}
    file = {"columns": {"what": "what", "here": "here"}, "rows": [row]}
    assert "| a model | not run |" in results.render("own", {"own": file})
    row["figures"] = {"ap": 1.5}
    assert "| a model | AP 1.5 |" in results.render("own", {"own": file})


def test_a_missing_figure_and_a_second_id_are_named():
    row = {"id": "one", "here": "{gone}", "figures": {"ap": 1.0}}
    file = {"columns": {"here": "here"}, "rows": [row]}
    with pytest.raises(KeyError, match=r"results/own\.json.*gone"):
        results.render("own", {"own": file})
    with pytest.raises(ValueError, match="second row has the id 'one'"):
        results.figures_by_id({"own": file, "more": file})
