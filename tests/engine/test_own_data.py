"""Own data sets in a run: what setting it up registers, sets, writes and refuses."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from densekit.config import load_config
from densekit.engine.own_data import register_own_data


@pytest.fixture
def cells(coco_cells):
    (coco_cells / "cells.yaml").write_text("cells: {form: coco, json: train.json, images: images}\n")
    (coco_cells / "out").mkdir()
    return coco_cells


def register(cells, *opts, **flags):
    cfg = load_config("", [*opts, "OUTPUT_DIR", str(cells / "out")])
    args = SimpleNamespace(datasets="", train_data="", val_data="", opts=list(opts))
    vars(args).update(flags)
    return cfg, register_own_data(cfg, args)


@pytest.mark.parametrize("by_flag", [True, False])
def test_the_run_keeps_a_copy_that_works_from_anywhere(cells, by_flag, monkeypatch):
    monkeypatch.chdir(cells)
    if by_flag:
        cfg, notes = register(cells, datasets="cells.yaml")
    else:
        cfg, notes = register(cells, "DATASETS.CATALOG", "cells.yaml")
    assert notes == [] and str(cells / "out" / "datasets.yaml") == cfg.DATASETS.CATALOG
    copy = yaml.safe_load((cells / "out" / "datasets.yaml").read_text())
    assert copy == {"cells": {"form": "coco", "json": str(cells / "train.json"), "images": str(cells / "images")}}
    register(cells, "DATASETS.CATALOG", cfg.DATASETS.CATALOG)


def test_one_data_set_without_a_file(cells, monkeypatch):
    monkeypatch.chdir(cells)
    entry = "form: coco, json: train.json, images: images"
    cfg, notes = register(cells, train_data=entry)
    assert cfg.DATASETS.TRAIN == ("own_train",) and cfg.DATASETS.TEST == () and "nothing will be evaluated" in notes[0]
    cfg, notes = register(cells, train_data=entry, val_data=f"{{{entry}}}")
    assert cfg.DATASETS.TEST == ("own_val",) and notes == []
    assert set(yaml.safe_load((cells / "out" / "datasets.yaml").read_text())) == {"own_train", "own_val"}
    with pytest.raises(ValueError, match=r"--train-data and DATASETS\.TRAIN both say"):
        register(cells, "DATASETS.TRAIN", "('x',)", train_data=entry)


def test_what_the_run_does_not_use_may_be_missing_and_what_it_has_used_is_kept(cells, caplog):
    lines = (cells / "cells.yaml").read_text() + "away: {form: images, images: nowhere}\n"
    (cells / "cells.yaml").write_text(lines)
    (cells / "others.yaml").write_text("others: {form: images, images: images}\n")
    register(cells, "DATASETS.TRAIN", "('cells',)", "DATASETS.TEST", "()", datasets=str(cells / "cells.yaml"))
    assert "'away'" in caplog.text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register(cells, "DATASETS.TEST", "('away',)", datasets=str(cells / "cells.yaml"))
    register(cells, datasets=str(cells / "others.yaml"))
    assert set(yaml.safe_load((cells / "out" / "datasets.yaml").read_text())) == {"cells", "others"}


def test_nothing_of_ones_own(cells):
    cfg, notes = register(cells)
    assert cfg.DATASETS.CATALOG == "" and notes == [] and not list((cells / "out").iterdir())


def test_a_whole_set_up(cells, arguments, tiny_root):
    """Counts, files and log of a run on data whose number of classes the configuration does not know."""
    from PIL import Image

    from densekit.engine import setup

    Image.new("RGB", (30, 20)).save(cells / "images" / "a.png")
    config = cells / "mine.yaml"
    config.write_text(f"_BASE_: {tiny_root / 'tiny.yaml'}\nDATASETS: {{TRAIN: [cells], TEST: [cells]}}\n")
    args = replace(arguments(), config_file=str(config), datasets=str(cells / "cells.yaml"))
    cfg = setup(args)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1 and cfg.is_frozen()
    folder = cells / "out"
    assert json.loads((folder / "classes.json").read_text())["thing_classes"] == [{"index": 0, "id": 7, "name": "cell"}]
    assert "NUM_CLASSES is 1, the classes of data set 'cells' (cell), not 80." in (folder / "log.txt").read_text()
    saved = load_config(str(folder / "config.yaml"))
    assert saved.MODEL.ROI_HEADS.NUM_CLASSES == 1 and str(folder / "datasets.yaml") == saved.DATASETS.CATALOG
    args = replace(args, opts=[*args.opts, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, but data set 'cells' has 1 classes"):
        setup(args)
