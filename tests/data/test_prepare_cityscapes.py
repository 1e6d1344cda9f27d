"""The files made of a Cityscapes download: those of cityscapesScripts, and what an interrupted run leaves."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from densekit.d2.data import DatasetCatalog
from densekit.data.labels import load_sem_seg
from densekit.data.prepare_cityscapes import main


@pytest.fixture
def tree(streets, tmp_path):
    """With fine labels only, and as they are downloaded."""
    made = shutil.ignore_patterns("gtCoarse", "cityscapes_panoptic_*")
    return shutil.copytree(streets / "cityscapes", tmp_path / "cityscapes", ignore=made)


def run(tree):
    return main(["--root", str(tree), "--quiet", "--workers", "2"])


def official(tree, module, *words):
    environment = os.environ | {"CITYSCAPES_DATASET": str(tree)}
    command = [sys.executable, "-m", f"cityscapesscripts.preparation.{module}", *words]
    subprocess.run(command, env=environment, capture_output=True, check=True)


def pixels(paths):
    return {path.name: np.asarray(Image.open(path)) for path in paths}


def test_the_files_are_those_of_cityscapes_scripts(tree, tmp_path):
    # Label ids anew from the polygons, as the benchmark's own are, so that both tools start from the same.
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    for path in tree.rglob("*_polygons.json"):
        json2labelImg(str(path), str(path).replace("_polygons.json", "_labelIds.png"), "ids")
    shutil.copytree(tree, tmp_path / "official")
    official(tmp_path / "official", "createTrainIdLabelImgs")
    official(tmp_path / "official", "createPanopticImgs", "--dataset-folder", str(tmp_path / "official" / "gtFine"),
             "--set-names", "train", "val")  # fmt: skip
    assert run(tree) == 0
    for pattern in ("*/*/*_labelTrainIds.png", "cityscapes_panoptic_*/*.png"):
        wanted = pixels((tmp_path / "official" / "gtFine").glob(pattern))
        made = pixels((tree / "gtFine").glob(pattern))
        assert made.keys() == wanted.keys() and len(made) == 5
        for name, picture in wanted.items():
            np.testing.assert_array_equal(made[name], picture, err_msg=name)
    for split in ("train", "val"):
        name = f"gtFine/cityscapes_panoptic_{split}.json"
        assert json.loads((tree / name).read_text()) == json.loads((tmp_path / "official" / name).read_text())


def test_the_generator_of_scenes_writes_the_same_panoptic_files(tree, streets):
    assert run(tree) == 0
    for split in ("train", "val"):
        names = [f"gtFine/cityscapes_panoptic_{split}.json"]
        documents = [json.loads((root / name).read_text()) for root in (tree, streets / "cityscapes") for name in names]
        assert documents[0] == documents[1] and documents[0]["annotations"]
    made = sorted(tree.rglob("*_panoptic.png"))
    assert len(made) == 5
    for path in made:
        assert path.read_bytes() == (streets / "cityscapes" / path.relative_to(tree)).read_bytes()


def test_a_second_run_makes_what_is_missing_or_broken_off(tree, capsys):
    assert run(tree) == 0
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}
    assert run(tree) == 0 and "0 labelTrainIds made" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()} == before
    missing, broken = sorted(tree.rglob("*_labelTrainIds.png"))[:2]
    panoptic = next(tree.rglob("*_panoptic.png"))
    contents = {path: path.read_bytes() for path in (missing, broken, panoptic)}
    missing.unlink()
    broken.write_bytes(contents[broken][:-20])
    panoptic.unlink()
    assert run(tree) == 0
    assert {path: path.read_bytes() for path in contents} == contents
    assert "2 labelTrainIds made" in capsys.readouterr().out
    assert not list(tree.rglob("*.part"))


def test_what_is_made_is_what_the_loaders_take(tree):
    from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
    from densekit.data.registry import register

    assert run(tree) == 0
    standard, _ = cityscapes_panoptic_entries("made", str(tree), ("val",))
    register(standard)
    for record in DatasetCatalog.get("made_val"):
        ids = np.asarray(Image.open(record["pan_seg_file_name"])).astype(int) @ [1, 256, 65536]
        labels = load_sem_seg(record)
        assert record["sem_seg_file_name"].endswith("_labelTrainIds.png")
        for segment in record["segments_info"]:
            assert set(np.unique(labels[ids == segment["id"]])) == {segment["category_id"]}
            assert segment["isthing"] == (segment["category_id"] >= 11)


def test_trees_that_cannot_be_prepared(tree, tmp_path, capsys):
    assert main(["--root", str(tmp_path / "nowhere")]) == 1
    assert "neither gtFine nor gtCoarse" in capsys.readouterr().err
    victim = next(tree.rglob("*_labelIds.png"))
    Image.fromarray(np.full((4, 4), 99, dtype=np.uint8)).save(victim)
    assert run(tree) == 1
    assert f"{victim} has the value 99" in capsys.readouterr().err


def test_coarse_labels_need_no_panoptic_files(tree):
    for path in sorted(tree.rglob("*gtFine*"), key=lambda path: len(str(path)), reverse=True):
        path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    assert run(tree) == 0
    assert len(list(tree.rglob("*_gtCoarse_labelTrainIds.png"))) == 5 and not list(tree.rglob("*panoptic*"))
