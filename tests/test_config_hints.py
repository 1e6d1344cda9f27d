"""What is said about a key that does not exist, and where each value of a config comes from."""

import json
import re

import pytest
from PIL import Image

from densekit.cli.arguments import parse_arguments
from densekit.cli.train import run_options
from densekit.config import load_config
from densekit.config_defaults import key_owners
from densekit.engine.setup import describe as describe_run


def describe(words: list[str]) -> str:
    args = parse_arguments(words)
    return describe_run(run_options(args), changed_only=args.diff)


def message(*opts: object) -> str:
    with pytest.raises(ValueError) as caught:
        load_config("", [str(word) for word in opts])
    return str(caught.value)


def origins(text: str) -> dict[str, str]:
    """Key -> origin."""
    return dict(re.match(r"(\S+): .*?  # (.*)", line).groups() for line in text.splitlines() if line[0] != "#")


def test_keys_have_the_project_that_added_them():
    owners = key_owners()
    assert owners["MODEL.TEMPLATE.HIDDEN_DIM"] == owners["MODEL.TEMPLATE"] == "projects/_template"
    assert not {"MODEL.ROI_MASK_HEAD", "SOLVER.OPTIMIZER", "MODEL.FPN.UPSAMPLER"} & set(owners)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.TEMPLATE.HIDDEN_DIMS", "MODEL.TEMPLATE.HIDDEN_DIM (projects/_template)"),
        ("MODEL.TEMPLATES.HIDDEN_DIM", "MODEL.TEMPLATE.HIDDEN_DIM (projects/_template)"),
    ],
)
def test_the_nearest_key_names_its_project(key, nearest):
    text = message(key, 1)
    assert f"no config key {key}. The nearest: {nearest}" in text


@pytest.mark.parametrize("key", ["MODEL.TEMPLATE.ALPHABET", "TEMPLATE.ALPHABET", "MODEL.TEMPLAET.ALPHABET"])
def test_a_key_unlike_any_other_leads_to_the_project_of_its_node(key):
    text = message(key, 1)
    assert "projects/_template" in text and "MODEL.TEMPLATE.HIDDEN_DIM" in text


def test_a_hint_in_a_file_names_the_project_too(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("MODEL:\n  TEMPLATE:\n    HIDDEN: 5\n")
    with pytest.raises(ValueError, match=rf"{path}, line 3: .*HIDDEN_DIM \(projects/_template\)"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("opts", "parts"),
    [
        (["SOLVER.BASE_LR", "fast"], ["SOLVER.BASE_LR is a float (by default 0.001)", "'fast' is a string"]),
        (["SOLVER.MAX_ITER", "1.5"], ["SOLVER.MAX_ITER is an integer", "1.5 is a float"]),
        (["MODEL.MASK_ON", "1"], ["MODEL.MASK_ON is true or false", "1 is an integer"]),
        (["DATASETS.TRAIN", "coco_2017_train"], ["DATASETS.TRAIN is a tuple", "'coco_2017_train' is a string"]),
        (["MODEL.TEMPLATE", "5"], ["MODEL.TEMPLATE is a node with keys of its own", "5 is an integer"]),
    ],
)
def test_a_wrong_type_of_an_override_names_key_value_and_what_is_expected(opts, parts):
    text = message(*opts)
    assert all(part in text for part in parts), text


@pytest.fixture
def own_data(tmp_path):
    """One picture with two classes, as the flag --train-data takes it."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
    objects = [
        {"id": i, "image_id": 1, "category_id": i, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0} for i in (1, 2)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": objects,
        "categories": [{"id": i, "name": f"kind{i}"} for i in (1, 2)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return f"form: coco, json: {tmp_path / 'a.json'}, images: {tmp_path / 'images'}"


def test_print_config_shows_what_the_data_will_set_and_writes_nothing(tmp_path, own_data):
    out = tmp_path / "out"
    words = ["--train-data", own_data, "SEED", "4", "--print-config", "OUTPUT_DIR", str(out)]
    text = describe(words)
    found = origins(text)
    assert "MODEL.ROI_HEADS.NUM_CLASSES: 2  #" in text
    assert "kind1, kind2" in found["MODEL.ROI_HEADS.NUM_CLASSES"]
    assert "DATASETS.TRAIN: ('own_train',)" in text and "--train-data" in found["DATASETS.TRAIN"]
    assert found["SEED"] == "command line" and found["SOLVER.GAMMA"] == "default"
    assert not out.exists()


def test_counts_that_the_user_sets_are_the_users(tmp_path, own_data):
    words = ["--train-data", own_data, "--diff", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "OUTPUT_DIR", str(tmp_path)]
    assert origins(describe(words))["MODEL.ROI_HEADS.NUM_CLASSES"] == "command line"


def test_what_epochs_will_change_is_announced():
    text = describe(["SOLVER.MAX_EPOCHS", "3.0", "--diff"])
    assert "# SOLVER.MAX_EPOCHS 3 sets SOLVER.MAX_ITER" in text.splitlines()[-1]


def test_a_config_is_printed_where_its_data_are_missing():
    words = ["DATASETS.TRAIN", "('nobody_has_this',)", "--print-config"]
    text = describe(words)
    assert "SOLVER.GAMMA: 0.1  # default" in text
    assert text.splitlines()[-1].startswith("# A run would end with: ") and "nobody_has_this" in text.splitlines()[-1]
