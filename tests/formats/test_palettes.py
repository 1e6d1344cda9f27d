"""Colours of label maps: palettes by name and from files, and the indexed PNGs."""

import json

import numpy as np
import pytest
from PIL import Image

from densekit.cli import main
from densekit.d2.data import MetadataCatalog
from densekit.data.builtin import register_builtin
from densekit.data.identity import describe_classes
from densekit.formats.classes import Classes
from densekit.formats.colours import write_list, write_picture
from densekit.formats.formats import FORMATS
from densekit.formats.palettes import PALETTES, class_colours, with_palette

CLASSES = Classes(labels=[(7, "road"), (23, "sky"), (2, "grass")])
COLOURS = [(128, 64, 128), (70, 130, 180), (0, 200, 0)]


@pytest.fixture
def map_file(tmp_path):
    """A label map of the three classes, as `semantic` has it."""
    ids = np.random.default_rng(0).choice([7, 23, 2], (30, 40)).astype(np.uint8)
    (tmp_path / "semantic" / "film").mkdir(parents=True)
    Image.fromarray(ids).save(tmp_path / "semantic" / "film" / "1.png")
    return ids


def test_indices_are_the_ids_and_colours_those_of_the_classes(tmp_path, map_file):
    classes = CLASSES.with_looks(stuff_colors=[list(colour) for colour in COLOURS])
    write_picture(tmp_path, {"stem": "film/1"}, "unused.png", classes)
    with Image.open(tmp_path / "colours" / "film" / "1.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), map_file)
        drawn = np.asarray(image.convert("RGB"))
    for (key, _), colour in zip(CLASSES.labels, COLOURS):
        assert (drawn[map_file == key] == colour).all()
    write_list(tmp_path, [], classes)
    listed = json.loads((tmp_path / "colours.json").read_text())["categories"]
    assert listed[1] == {"id": 23, "name": "sky", "color": [70, 130, 180]} and len(listed) == 3


def test_ids_beyond_a_byte_are_drawn_in_colours(tmp_path):
    ids = np.array([[300, 2], [2, 300]], np.uint16)
    (tmp_path / "semantic").mkdir()
    Image.fromarray(ids).save(tmp_path / "semantic" / "1.png")
    classes = Classes(labels=[(300, "sky"), (2, "grass")], looks={"stuff_colors": [[1, 2, 3], [4, 5, 6]]})
    write_picture(tmp_path, {"stem": "1"}, "unused.png", classes)
    with Image.open(tmp_path / "colours" / "1.png") as image:
        assert image.mode == "RGB"
        assert np.asarray(image).tolist() == [[[1, 2, 3], [4, 5, 6]], [[4, 5, 6], [1, 2, 3]]]


def test_without_colours_classes_differ():
    many = Classes(labels=[(k, f"class {k}") for k in range(30)])
    assert len(set(class_colours(many))) == 30


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([list(colour) for colour in COLOURS])),
        ("a.json", json.dumps({"grass": COLOURS[2], "road": COLOURS[0], "sky": COLOURS[1], "sea": [0, 0, 9]})),
        ("a.json", json.dumps({"classes": ["road", "sky", "grass"], "colors": COLOURS})),
        ("a.yaml", "road: [128, 64, 128]\nsky: [70, 130, 180]\ngrass: [0, 200, 0]\n"),
        ("a.txt", "# mine\n128 64 128  # road\n70, 130, 180\n\n0 200 0\n255 255 255\n"),
    ],
)
def test_files_of_all_forms(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert class_colours(with_palette(CLASSES, str(tmp_path / name))) == COLOURS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1, 2, 3], [4, 5, 6]]", r"has 2 colours, and there are 3 classes: the first without one is 'grass'"),
        ('{"road": [1, 2, 3]}', r"no colour for the class 'sky' and 1 more classes; it names road"),
        ("[[1, 2, 3], [4, 5, 256], [0, 0, 0]]", r"the colour of class number 1 is \[4, 5, 256\]"),
        ('{"road": "red"}', r"the colour of class 'road' is 'red'"),
        ("[]", "there are no colours"),
        ("{", "cannot be read"),
        ('{"classes": ["road", "sky", "grass"]}', "has no 'colors'"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "palette.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        with_palette(CLASSES, str(path))
    assert "palette.json" in str(error.value)


def test_names_are_known_or_refused():
    with pytest.raises(FileNotFoundError, match=r"--palette cityscape: no such file.* Did you mean cityscapes\?"):
        with_palette(CLASSES, "cityscape")
    with pytest.raises(ValueError, match="cityscapes has no colour for the class 'grass'"):
        with_palette(CLASSES, "cityscapes")


def test_the_palettes_fit_the_data_sets_that_they_are_named_after():
    register_builtin()
    for palette, data, first in (
        ("ade20k", "ade20k_sem_seg_val", (120, 120, 120)),
        ("camvid", "camvid_sem_seg_val", (128, 128, 128)),
        ("cityscapes", "cityscapes_fine_sem_seg_val", (128, 64, 128)),
        ("voc", "voc_2012_sem_seg_val", (0, 0, 0)),
    ):
        own = Classes.of(MetadataCatalog.get(data))
        found = class_colours(with_palette(own, palette))
        assert found[0] == first
        # They are the data sets' own, also where only the run's list of classes is at hand.
        assert class_colours(own) == class_colours(Classes.of_description(describe_classes(data))) == found


def test_the_colours_of_pascal_voc():
    # From the picture of the development kit: aeroplane, bicycle, person, tvmonitor, void.
    colours = PALETTES["voc"]
    assert [colours[k] for k in (1, 2, 15, 20, 255)] == [
        (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)]  # fmt: skip
    assert len(set(colours)) == 256


def test_the_help_names_all(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(PALETTES) in text and all(f" {name} " in text for name in FORMATS)
