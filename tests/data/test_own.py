"""Own data sets from a YAML file."""

import pytest

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.own import register_from_yaml


@pytest.fixture
def cells(coco_cells):
    file = coco_cells / "cells.yaml"
    file.write_text("own_cells: {form: coco, json: train.json, images: images}\n")
    return file


def test_paths_are_relative_to_the_yaml(cells, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert register_from_yaml(cells) == ["own_cells"]
    (record,) = DatasetCatalog.get("own_cells")
    assert record["file_name"] == str(cells.parent / "images" / "a.png")
    assert record["annotations"][0]["category_id"] == 0
    assert MetadataCatalog.get("own_cells").thing_classes == ["cell"]


def test_registering_twice_is_harmless_and_a_conflict_is_not(cells):
    register_from_yaml(cells)
    register_from_yaml(cells)
    other = cells.with_name("other.json")
    other.write_text((cells.parent / "train.json").read_text())
    cells.write_text(cells.read_text().replace("train.json", "other.json"))
    with pytest.raises(
        ValueError, match=r"own_cells(.|\n)*train\.json(.|\n)*other\.json|other\.json(.|\n)*train\.json"
    ):
        register_from_yaml(cells)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("- a\n", ValueError, "form: coco"),
        ("a: [1\n", ValueError, "is not YAML"),
        ("a: {form: vocs, json: train.json, images: images}\n", ValueError, "form is 'vocs'.*Did you mean voc"),
        ("a: {json: train.json}\n", ValueError, "images missing"),
        ("a: {json: train.json, images: images, masks: x}\n", ValueError, "unknown key masks"),
        ("a: {form: voc, images: images}\n", ValueError, r"annotations missing; form 'voc' takes .*\[split\]"),
        ("a: {json: [1], images: images}\n", ValueError, r"\[1\] is no path"),
        ("a: {json: train.json, images: train.json}\n", FileNotFoundError, "is a file and must be a folder"),
        ("a: {json: images, images: images}\n", FileNotFoundError, "is a folder and must be a file"),
        ("a: {json: train.json, images: images}\na: {}\n", ValueError, "'a' occurs twice"),
        ("a: {json: nowhere.json, images: images}\n", FileNotFoundError, "nowhere.json"),
    ],
)
def test_bad_entries_name_the_file_and_the_remedy(cells, text, error, says):
    cells.write_text(text)
    with pytest.raises(error, match=says) as caught:
        register_from_yaml(cells)
    assert str(cells) in str(caught.value)


def test_a_data_set_that_is_not_used_blocks_no_other(cells, caplog):
    cells.write_text(cells.read_text() + "gone: {form: voc, images: nowhere, annotations: nowhere}\nodd: {form: xml}\n")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register_from_yaml(cells)
    caplog.clear()
    assert register_from_yaml(cells, ["own_cells"]) == ["own_cells"]
    assert DatasetCatalog.get("own_cells") and not {"gone", "odd"} & set(DatasetCatalog.list())
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 2 and "'gone'" in warned[0] and "nowhere" in warned[0] and "'odd'" in warned[1]
    with pytest.raises(FileNotFoundError, match=r"'gone'.*nowhere"):
        register_from_yaml(cells, ["own_cells", "gone"])


def test_a_name_that_stands_for_other_data_is_an_error_though_it_is_not_used(cells):
    cells.write_text(cells.read_text() + "coco_2017_val: {form: coco, json: train.json, images: images}\n")
    with pytest.raises(ValueError, match="'coco_2017_val'"):
        register_from_yaml(cells, ["own_cells"])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        register_from_yaml(tmp_path / "mine.yaml")
