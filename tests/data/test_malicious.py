"""Files that want to harm: each is refused with a message that names it, before anything is run, opened or decoded."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from densekit.config import load_config
from densekit.d2.data import DatasetCatalog
from densekit.data import register_from_yaml
from densekit.data.coco import load_coco_json
from densekit.data.inspect import Options, fix_coco, inspect_coco, inspect_dataset
from densekit.data.labels import read_values
from densekit.data.mapper import DatasetMapper
from densekit.data.panoptic_json import read_panoptic_file
from densekit.data.pictures import image_size
from densekit.data.training_images import read_training_image
from densekit.evaluation.cityscapes.frames import read_label_map
from densekit.files.atomic import leads_out
from densekit.files.panoptic_png import read_panoptic_png
from densekit.inference.inputs import Picture
from densekit.inference.reading import Views
from densekit.weights import read_checkpoint
from tests.data.own_forms import write_catalog, write_pictures, write_semantic, write_voc

ROOT = Path(__file__).resolve().parents[2]


# Code in pickles and in YAML


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth"])
def test_a_pickle_with_a_reduce(tmp_path, suffix):
    victim, path = tmp_path / "victim", tmp_path / f"weights.{suffix}"
    path.write_bytes(pickle.dumps({"model": {"w": np.zeros(2)}, "__author__": "x", "y": Touch(victim)}, protocol=2))
    with pytest.raises(ValueError, match=rf"weights\.{suffix}.*(?:posix|nt)\.mkdir|weights\.{suffix}.*code"):
        read_checkpoint(path)
    assert not victim.exists()


def test_a_yaml_with_a_python_tag(tmp_path):
    victim = tmp_path / "victim"
    tag = f'!!python/object/apply:os.mkdir ["{victim}"]'
    config, catalog = tmp_path / "config.yaml", tmp_path / "data.yaml"
    config.write_text(f"OUTPUT_DIR: {tag}\n")
    catalog.write_text(f"mine: {tag}\n")
    with pytest.raises(ValueError, match=r"config\.yaml.*would run code"):
        load_config(str(config))
    with pytest.raises(ValueError, match=r"data\.yaml.*could not determine a constructor"):
        register_from_yaml(str(catalog))
    with pytest.raises((ValueError, yaml.YAMLError)):
        load_config("", ["OUTPUT_DIR", tag]).merge_from_list(["DATASETS.TRAIN", tag])
    assert not victim.exists()


def test_yaml_is_loaded_safely_everywhere():
    """No loader of PyYAML that constructs objects is named in the tree."""
    unsafe = ("yaml.Loader", "UnsafeLoader", "FullLoader", "unsafe_load", "full_load", "yaml.load_all")
    for folder in ("densekit", "projects", "datasets", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not [word for word in unsafe if word in text], path


# Names that lead out of their folder

OUTSIDE = ["../secret.jpg", "a/../../secret.jpg", "/etc/secret.jpg", "a/b/../../../secret.jpg", "..", "a\0.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_json_with_a_path_out_of_the_folder(tiny, name):
    tiny.content["images"][1]["file_name"] = name
    tiny.write()
    with pytest.raises(ValueError) as caught:
        load_coco_json(tiny.json_file, tiny.image_root)
    text = str(caught.value)
    assert str(tiny.json_file) in text and "image 11" in text and repr(name) in text
    assert "leads out of the folder of images" in text and "Name the folder that holds all of them" in text


@pytest.mark.parametrize("name", ["..hidden.jpg", "a/..b/c.jpg", "a/../b.jpg", "./a.jpg", "a..b.jpg"])
def test_names_that_stay_inside(name):
    assert not leads_out(name)


def test_an_absolute_name_below_the_folder_is_in_order(tiny):
    names = [image["file_name"] for image in tiny.content["images"]]
    for image in tiny.content["images"]:
        image["file_name"] = str(tiny.image_root / image["file_name"])
    tiny.write()
    found = load_coco_json(tiny.json_file, tiny.image_root)
    assert sorted(Path(record["file_name"]).name for record in found) == sorted(names)


@pytest.mark.parametrize("which", ["image", "png"])
def test_panoptic_files_are_held_to_their_folders_too(tmp_path, which):
    content = {
        "images": [{"id": 1, "file_name": "/etc/a.jpg" if which == "image" else "a.jpg"}],
        "categories": [{"id": 1, "name": "a", "isthing": 1}],
        "annotations": [
            {"image_id": 1, "file_name": "../../a.png" if which == "png" else "a.png", "segments_info": []}
        ],
    }
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"panoptic\.json.*image 1 .*leads out of the folder"):
        read_panoptic_file(str(path))


def test_check_reports_such_names_opens_nothing_and_fix_removes_them(tiny):
    secret = tiny.folder / "secret.jpg"
    Image.new("RGB", (40, 30)).save(secret)
    tiny.content["images"][1]["file_name"] = "../secret.jpg"
    tiny.write()
    inspection = inspect_coco(str(tiny.json_file), str(tiny.image_root), "tiny", Options(workers=1, progress=False))
    (found,) = inspection.findings.by_kind["path-outside"]
    assert found.image_id == 11 and "../secret.jpg" in str(found)
    assert str(secret) not in inspection.facts
    assert not any("secret" in str(other) for other in inspection.findings.by_kind.get("file-not-listed", []))
    fixed, _ = fix_coco(inspection.content, inspection.paths, inspection.facts, set())
    assert len(fixed["images"]) == 2
    assert all("secret" not in image["file_name"] for image in fixed["images"])


def test_a_list_of_names_leads_nowhere_else(tmp_path):
    write_pictures(tmp_path)
    entry = write_voc(tmp_path)
    (tmp_path / "split.txt").write_text("../../etc/passwd\n")
    register_from_yaml(write_catalog(tmp_path, mine={**entry, "split": "split.txt"}))
    with pytest.raises(ValueError, match=r"split\.txt, line 1: '\.\./\.\./etc/passwd' is the name of no image"):
        DatasetCatalog.get("mine")


# Small files that fill the memory


def bomb(path: Path, side: int = 50_000, colour: int = 2) -> Path:
    """A PNG of some bytes that claims ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )
    return path


MESSAGE = r"bomb\.png.*2,500,000,000 pixels.*DENSEKIT_MAX_PIXELS=2500000000"


@pytest.mark.parametrize(
    ("read", "colour"),
    [
        (lambda path: image_size(str(path)), 2),
        (lambda path: read_values(str(path)), 0),
        (read_panoptic_png, 2),
        (read_label_map, 0),
        (lambda path: DatasetMapper(is_train=False, augmentations=[], image_format="BGR")({"file_name": str(path)}), 2),
        (lambda path: DatasetMapper(is_train=True, augmentations=[], image_format="BGR")({"file_name": str(path)}), 2),
    ],
    ids=["header", "labels", "panoptic", "cityscapes", "evaluation", "training"],
)
def test_a_bomb_of_an_image(tmp_path, read, colour):
    with pytest.raises(ValueError, match=MESSAGE):
        read(bomb(tmp_path / "bomb.png", colour=colour))


def test_a_bomb_is_a_picture_that_predictions_skip_and_check_reports(tiny):
    path = bomb(tiny.image_root / "bomb.png")
    loaded = Views([Picture(0, 1, str(path), "bomb.png", "bomb")], "BGR", None, None)[0]
    assert "cannot be read: its header claims 2,500,000,000 pixels" in loaded.problem
    tiny.content["images"][0]["file_name"] = "bomb.png"
    tiny.write()
    inspection = inspect_coco(str(tiny.json_file), str(tiny.image_root), "tiny", Options(workers=1, progress=False))
    assert any("2,500,000,000 pixels" in str(found) for found in inspection.findings.by_kind["image-unreadable"])


def test_a_bomb_of_a_label_map_is_a_finding(tmp_path):
    write_pictures(tmp_path)
    register_from_yaml(write_catalog(tmp_path, mine=write_semantic(tmp_path)))
    bomb(tmp_path / "maps" / "a.png", colour=0)
    findings = inspect_dataset("mine", Options(workers=1, progress=False)).findings
    assert "2,500,000,000 pixels" in findings.by_kind["label-unreadable"][0].detail


def test_the_fast_reader_of_training_leaves_large_photos_to_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (100, 80)).save(path)
    assert read_training_image(str(path), "BGR").shape == (80, 100, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3_000)
    with pytest.raises(Image.DecompressionBombError):
        read_training_image(str(path), "BGR")


def test_the_limit_can_be_raised_and_lowered(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (99, 101)).save(path)
    code = f"from densekit.data.pictures import image_size; print(image_size({str(path)!r}))"
    for limit, says in (("4000", "9,999 pixels"), ("9999", "(101, 99)")):
        env = os.environ | {"DENSEKIT_MAX_PIXELS": limit}
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
        assert says in run.stdout + run.stderr


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(8))
    + "]><annotation><object><name>&i;</name></object></annotation>"
)
FOREIGN = '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><name>&a;</name></annotation>'


@pytest.mark.parametrize("text", [LAUGHS, FOREIGN], ids=["laughs", "foreign"])
def test_an_xml_with_entities(tmp_path, text):
    write_pictures(tmp_path)
    entry = write_voc(tmp_path)
    (tmp_path / "xml" / "a.xml").write_text(text)
    register_from_yaml(write_catalog(tmp_path, mine=entry))
    with pytest.raises(ValueError, match=r"a\.xml has a document type.*remove the declaration"):
        DatasetCatalog.get("mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [("[" * 200_000, "nested too deeply"), ('{"images": [' + "9" * 10_000 + "]}", "cannot be read|integer string")],
    ids=["deep", "long"],
)
def test_a_json_that_no_reader_is_made_for(tmp_path, text, says):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json.*(?:{says})"):
        load_coco_json(path, tmp_path)
    inspection = inspect_coco(str(path), str(tmp_path), "a", Options(workers=1, progress=False))
    assert "annotations-unreadable" in inspection.findings.by_kind
