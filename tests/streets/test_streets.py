"""The built-in street scenes: reproducible, and one truth in every format."""

import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from densekit.ops.outlines import polygons
from densekit.streets.cli import main
from densekit.streets.labels import KEYPOINT_FLIP_MAP, KEYPOINT_NAMES, LABELS, THINGS
from densekit.streets.render import MIN_PIXELS, make_picture, render, settle
from densekit.streets.scene import sample_scene
from densekit.streets.sprites.mesh import Mesh
from densekit.streets.world import Camera, Canvas, Light
from densekit.streets.write import write_streets

SIZE = {"train": 6, "val": 3, "width": 320, "height": 160, "seed": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_streets(tmp_path_factory.mktemp("data") / "streets", **SIZE, workers=2)


def _ids(root, split, file_name):
    colours = cv2.imread(str(root / "annotations" / f"panoptic_{split}" / file_name)).astype(np.int32)
    return colours[..., 2] + 256 * colours[..., 1] + 65536 * colours[..., 0]


def _gt_fine(root, split, kind):
    return _labels(root, "gtFine", split, kind)


def _labels(root, folder, split, kind):
    files = sorted((root / "cityscapes" / folder / split).glob(f"*/*_{folder}_{kind}.png"))
    return [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_same_bytes_whatever_the_workers(root, tmp_path):
    again = write_streets(tmp_path / "again", **SIZE, workers=1)
    names = _files(root)
    assert names == _files(again)
    assert filecmp.cmpfiles(root, again, names, shallow=False)[0] == names


def test_another_seed_is_another_street(root):
    here = cv2.imread(str(root / "train" / "000001.png"))
    other = make_picture(SIZE["seed"] + 1, 0, 0, SIZE["width"], SIZE["height"])
    assert np.abs(here.astype(int) - other.image).mean() > 5


@pytest.mark.parametrize("split", ["train", "val"])
def test_formats_agree(root, split):
    """Instances, panoptic segments and Cityscapes' ids say the same of every pixel."""
    coco = COCO(str(root / "annotations" / f"instances_{split}.json"))
    document = json.loads((root / "annotations" / f"panoptic_{split}.json").read_text())
    assert len(coco.imgs) == len(document["annotations"]) == SIZE[split]
    label_maps, instance_maps = _gt_fine(root, split, "labelIds"), _gt_fine(root, split, "instanceIds")
    for annotation, labels, instances in zip(document["annotations"], label_maps, instance_maps):
        ids = _ids(root, split, annotation["file_name"])
        assert instances.dtype == np.uint16 and (instances == ids).all()
        assert (np.where(ids >= 1000, ids // 1000, ids) == labels).all()
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) == set(segments)
        for value, segment in segments.items():
            rows, columns = np.nonzero(ids == value)
            x, y, width, height = segment["bbox"]
            assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert segment["area"] == len(rows)
        things = [s for s in segments.values() if s["category_id"] in {label.id for label in THINGS}]
        found = coco.imgToAnns[annotation["image_id"]]
        key = lambda s: (s["category_id"], s["area"], s["bbox"], s["iscrowd"])  # noqa: E731
        assert sorted(map(key, found)) == sorted(map(key, things))


@pytest.mark.parametrize("split", ["train", "val"])
def test_coarse_labels_are_right_and_leave_borders_out(root, split):
    fine = _gt_fine(root, split, "instanceIds")
    coarse = _labels(root, "gtCoarse", split, "instanceIds")
    labels = _labels(root, "gtCoarse", split, "labelIds")
    assert len(coarse) == SIZE[split]
    for ids, drawn, label_map in zip(fine, coarse, labels):
        assert (drawn == ids)[drawn > 0].all()
        assert 0.4 < (drawn > 0).mean() < 0.95
        border = (ids[:-1] != ids[1:])[:, :-1] | (ids[:, :-1] != ids[:, 1:])[:-1]
        assert not drawn[:-1, :-1][border].any()
        assert (label_map == np.where(drawn >= 1000, drawn // 1000, drawn)).all()


def test_polygons_cover_their_masks(root):
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    overlaps = []
    for image_id, image in coco.imgs.items():
        ids = _ids(root, "train", image["file_name"])
        for annotation in coco.imgToAnns[image_id]:
            drawn = coco.annToMask(annotation).astype(bool)
            values, counts = np.unique(ids[drawn], return_counts=True)
            truth = ids == values[counts.argmax()]
            assert truth.sum() == annotation["area"] >= MIN_PIXELS
            overlaps.append((truth & drawn).sum() / (truth | drawn).sum())
    assert np.min(overlaps) > 0.85 and np.mean(overlaps) > 0.97


def test_polygons_of_a_ring_leave_its_hole():
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:35, 8:42] = True
    mask[15:25, 20:30] = False
    drawn = np.zeros(mask.shape, dtype=np.uint8)
    for outline in polygons(mask):
        # Slightly finer than a pixel, so that only the geometry counts.
        cv2.fillPoly(drawn, [np.round((outline - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    assert (drawn != mask).sum() <= 4
    assert not polygons(np.zeros((4, 4), dtype=bool))


def test_keypoints(root):
    document = json.loads((root / "annotations" / "person_keypoints_train.json").read_text())
    assert tuple(document["categories"][0]["keypoints"]) == KEYPOINT_NAMES and len(KEYPOINT_FLIP_MAP) == 8
    coco = COCO(str(root / "annotations" / "person_keypoints_train.json"))
    bodies = [a for a in document["annotations"] if not a["iscrowd"]]
    assert bodies and all(a["num_keypoints"] > 0 for a in bodies)
    seen = np.zeros(3, dtype=int)
    for annotation in bodies:
        points = np.array(annotation["keypoints"]).reshape(17, 3)
        mask = cv2.dilate(coco.annToMask(annotation), np.ones((5, 5), dtype=np.uint8))
        for x, y, visible in points:
            seen[visible] += 1
            if visible:
                assert 0 <= x < SIZE["width"] and 0 <= y < SIZE["height"]
            else:
                assert x == y == 0
            if visible == 2:
                assert mask[y, x]
    assert seen[2] > seen[1] > 0


def test_a_body_hides_its_far_side():
    """Of a person seen from the side, the far shoulder and the far ear are hidden and the near ones are not."""
    from densekit.streets.sprites.person import Person

    camera = Camera(width=800, height=400, focal=700.0, centre=400.0, horizon=180.0, eye=1.6)
    person = replace(Person.sample(np.random.default_rng(0)), height=1.8)
    _, hidden = person.keypoints(camera, np.array([0.0, 0.0, 8.0]), np.pi / 2)  # walks to the right: left is far
    row = {name: i for i, name in enumerate(KEYPOINT_NAMES)}
    assert hidden[row["left_ear"]] and not hidden[row["right_ear"]]
    assert hidden[row["left_hip"]] and not hidden[row["right_hip"]]
    _, front = person.keypoints(camera, np.array([0.0, 0.0, 8.0]), np.pi)
    _, back = person.keypoints(camera, np.array([0.0, 0.0, 8.0]), 0.0)
    assert not front[row["nose"]] and back[row["nose"]]


def test_nearer_things_hide_farther_ones():
    overlaps = 0
    for index in range(6):
        picture = make_picture(11, 0, index, 320, 160)
        for i, far in enumerate(picture.things):
            for near in picture.things[i + 1 :]:
                both = far.whole & near.whole
                if near.depth == far.depth or not both.any():  # a rider and the bicycle
                    continue
                overlaps += 1
                # (a third thing may turn the majority of a few edge pixels)
                assert (both & (picture.labels == far.label)).sum() <= 2 + 0.01 * both.sum()
    assert overlaps > 3


def test_size_follows_depth():
    camera = Camera(width=640, height=320, focal=600.0, centre=320.0, horizon=140.0, eye=1.5)
    light = Light(np.array([0.0, 1.0, 0.0]), 0.7, 0.3, np.full(3, 200.0), 200.0)
    mesh = Mesh()
    mesh.piece(0, (0, 0, 1))
    mesh.prism([(-1, 0), (1, 0), (1, 2), (-1, 2)], 1.0, (10.0, 200.0, 30.0))
    heights = []
    for depth in (11.0, 21.0):
        canvas = Canvas(camera, light, labels_only=True)
        mesh.draw(canvas, np.array([0.0, 0.0, depth]), 0.0, 99)
        rows = np.flatnonzero((canvas.labels == 99).any(axis=1))
        assert abs(rows[-1] + 1 - (140 + 600 * 1.5 / (depth - 1))) <= 1.5  # its near foot stands on the ground
        heights.append(len(rows))
    assert abs(heights[0] / heights[1] - 2.0) < 0.06


def test_labels_alone_are_the_labels_of_the_picture():
    scene = settle(sample_scene(np.random.default_rng(4), 200, 120))
    labels = render(scene).labels
    assert set(np.unique(labels)) >= {LABELS["road"].id, LABELS["building"].id}
    assert settle(scene).actors == scene.actors  # what was kept is visible enough when the rest is gone


@pytest.mark.parametrize(("width", "height"), [(129, 97), (64, 64), (90, 200), (401, 133)])
def test_odd_sizes(tmp_path, width, height):
    root = write_streets(tmp_path / "odd", train=1, val=1, width=width, height=height, workers=1)
    image = cv2.imread(str(root / "val" / "000002.png"))
    assert image.shape == (height, width, 3)
    assert _gt_fine(root, "val", "labelIds")[0].shape == (height, width)
    record = json.loads((root / "annotations" / "instances_val.json").read_text())["images"][0]
    assert (record["id"], record["width"], record["height"]) == (2, width, height)


def test_a_second_call_keeps_or_refuses(root, tmp_path):
    before = (root / "train" / "000001.png").stat().st_mtime_ns
    assert write_streets(root, **SIZE) == root
    assert (root / "train" / "000001.png").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"seed=3.*seed=4.*--overwrite"):
        write_streets(root, **(SIZE | {"seed": 4}))
    small = {"train": 1, "val": 1, "width": 64, "height": 48}
    other = write_streets(tmp_path / "s", **small, workers=1)
    write_streets(other, **small, seed=1, workers=1, overwrite=True)
    assert json.loads((other / "streets.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # nothing else is left behind
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="not a street data set"):
        write_streets(tmp_path / "mine", **small, overwrite=True)


@pytest.mark.parametrize("bad", [{"train": 0}, {"width": 8}, {"seed": -1}])
def test_bad_parameters_are_named(tmp_path, bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
        write_streets(tmp_path / "x", **bad)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
    script = Path(__file__).resolve().parents[2] / "datasets" / "make_streets.py"
    options = ["--root", str(tmp_path / "s"), "--train", "1", "--val", "1", "--quiet", "--workers", "1"]
    options += ["--width", "64", "--height", "48"]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "s")
    assert main([*options, "--seed", "5"]) == 1
    message = capsys.readouterr().err
    assert "seed=0" in message and "seed=5" in message and "--overwrite" in message
    assert main([*options, "--seed", "5", "--overwrite"]) == 0


def test_the_generator_needs_no_torch():
    code = "import sys, densekit.streets.cli; sys.exit('torch' in sys.modules)"
    folder = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.skipif(importlib.util.find_spec("cityscapesscripts") is None, reason="needs cityscapesScripts")
def test_cityscapes_scripts_read_the_tree(root):
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.helpers.labels import name2label
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    for label in LABELS.values():
        assert (name2label[label.name].id, name2label[label.name].color) == (label.id, label.colour)
    for split in ("train", "val"):
        documents = sorted((root / "cityscapes" / "gtFine" / split).glob("*/*_polygons.json"))
        label_maps, instance_maps = _gt_fine(root, split, "labelIds"), _gt_fine(root, split, "instanceIds")
        for document, labels, instances in zip(documents, label_maps, instance_maps):
            annotation = Annotation()
            annotation.fromJsonFile(str(document))
            assert (np.array(createLabelImage(annotation, "ids")) == labels).mean() > 0.97
            drawn = np.array(createInstanceImage(annotation, "ids"))
            assert np.mean(drawn // 1000 == instances // 1000) > 0.97
            count = lambda ids: np.bincount(np.unique(ids[ids >= 1000]) // 1000, minlength=34)  # noqa: E731
            assert (count(drawn) == count(instances)).all()
        for document in (root / "cityscapes" / "gtCoarse" / split).glob("*/*_polygons.json"):
            annotation = Annotation()
            annotation.fromJsonFile(str(document))
            labels = cv2.imread(str(document).replace("_polygons.json", "_labelIds.png"), cv2.IMREAD_UNCHANGED)
            assert (np.array(createLabelImage(annotation, "ids")) == labels).mean() > 0.99


@pytest.mark.skipif(importlib.util.find_spec("cityscapesscripts") is None, reason="needs cityscapesScripts")
def test_train_ids_are_made_by_cityscapes_scripts(root, tmp_path):
    shutil.copytree(root / "cityscapes", tmp_path / "cityscapes")
    environment = os.environ | {"CITYSCAPES_DATASET": str(tmp_path / "cityscapes")}
    module = "cityscapesscripts.preparation.createTrainIdLabelImgs"
    subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, check=True)
    assert len(_gt_fine(tmp_path, "train", "labelTrainIds")) == SIZE["train"]


def test_registration(root, monkeypatch):
    from densekit.d2.data import DatasetCatalog, MetadataCatalog
    from densekit.data.streets import register_streets

    names = [f"{kind}streets_{split}" for kind in ("", "keypoints_") for split in ("train", "val")]
    for name in [name for name in DatasetCatalog.list() if "streets" in name]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_streets(root.parent)
    register_streets(root.parent)
    assert set(names) <= set(DatasetCatalog.list())
    with pytest.raises(ValueError, match="streets_train"):
        register_streets(root.parent / "elsewhere")
    pytest.importorskip("densekit.data.coco")
    records = DatasetCatalog.get("streets_train")
    assert len(records) == SIZE["train"] and all(Path(record["file_name"]).is_file() for record in records)
    used = {a["category_id"] for record in records for a in record["annotations"]}
    assert used <= set(range(len(THINGS)))
    assert MetadataCatalog.get("streets_train").thing_classes == [label.name for label in THINGS]
    persons = DatasetCatalog.get("keypoints_streets_val")
    assert {len(a["keypoints"]) for record in persons for a in record["annotations"]} == {51}


def test_missing_files_name_the_command(tmp_path):
    from densekit.d2.data import DatasetCatalog, MetadataCatalog
    from densekit.data.streets import register_streets

    pytest.importorskip("densekit.data.coco")
    for name in [name for name in DatasetCatalog.list() if "streets" in name]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_streets(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"make_streets\.py"):
        DatasetCatalog.get("streets_val")
