"""Trainings that the rows of the results ask for, and the figures that are written of them."""

import json
import sys

import pytest

from docs.tools.results import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
measure = pytest.importorskip("measure")


def test_several_seeds_give_mean_and_spread(tmp_path, monkeypatch):
    trained, found = [], {"seed_4": 30.0, "seed_5": 33.0, "seed_9": 36.0}

    def train(config, folder, words):
        trained.append((config, folder.name, words))
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("VERSION: 2\n")

    monkeypatch.setattr(measure, "train", train)
    monkeypatch.setattr(measure, "results", lambda folder: {"bbox": {"AP": found[folder.name]}})
    monkeypatch.setattr(measure, "minutes", lambda folder: found[folder.name] / 10)
    run = {"config": "x.yaml", "opts": ["A", "1"], "metrics": {"ap": "bbox/AP"}, "seeds": [4, 5, 9]}
    row = {"id": "one", "here": "{ap} ± {ap_spread}, {minutes}", "run": run}
    figures = measure.measure(row, "", tmp_path)
    assert trained == [("x.yaml", f"seed_{seed}", ["A", "1", "SEED", str(seed)]) for seed in (4, 5, 9)]
    assert figures == {"ap": 33.0, "ap_spread": 3.0, "minutes": 3.3}

    path = tmp_path / "own.json"
    path.write_text(json.dumps({"rows": [row]}))
    measure.record(path, "one", figures, "streets")
    written = measure.row_of(path, "one")
    assert written["seeds"] == [4, 5, 9] and written["figures"] == figures


def test_one_run_has_no_spread(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.yaml").write_text("VERSION: 2\n")
    monkeypatch.setattr(measure, "train", lambda config, folder, words: None)
    monkeypatch.setattr(measure, "results", lambda folder: {"bbox": {"AP": 12.345}})
    row = {"id": "one", "here": "{ap}", "run": {"config": "x.yaml", "metrics": {"ap": "bbox/AP"}}}
    assert measure.measure(row, "", tmp_path) == {"ap": 12.35}
