"""Loading the config of a run, and what is said when something is wrong with it."""

import re

import pytest
import yaml

from densekit.config import describe_config, explicit_keys, load_config
from densekit.config_defaults import add_densekit_config
from densekit.d2 import HOST
from densekit.d2.config import get_cfg


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write_file


def message(error, *load):
    with pytest.raises(error) as caught:
        load_config(*load)
    return str(caught.value)


def test_defaults_hold_the_keys_of_host_densekit_and_projects():
    cfg = load_config("")
    host = get_cfg()
    assert set(host) <= set(cfg)
    assert set(cfg.MODEL) > set(host.MODEL)
    assert cfg.SOLVER.OPTIMIZER == "SGD" and cfg.INPUT.MAPPER == ""
    assert not cfg.is_frozen()


def test_bases_then_the_file_then_overrides(write):
    write("base/one.yaml", "SOLVER: {BASE_LR: 0.1, GAMMA: 0.1, MAX_ITER: 1}\n")
    write("base/two.yaml", "SOLVER: {GAMMA: 0.2, MAX_ITER: 2}\n")
    path = write("run.yaml", "_BASE_: [base/one.yaml, base/two.yaml]\nSOLVER: {MAX_ITER: 3, OPTIMIZER: AdamW}\n")
    solver = load_config(path, ["SOLVER.STEPS", "(1, 2)"]).SOLVER
    assert (solver.BASE_LR, solver.GAMMA, solver.MAX_ITER) == (0.1, 0.2, 3)
    assert (solver.OPTIMIZER, solver.STEPS) == ("AdamW", (1, 2))


def test_unknown_key_names_the_file_of_the_chain_the_line_and_the_nearest_keys(write):
    base = write("base.yaml", "MODEL:\n  MASK_ON: True\n  ROI_HEADS:\n    NUM_CLASS: 3\n")
    text = message(ValueError, write("run.yaml", "_BASE_: base.yaml\nSEED: 1\n"))
    assert text.startswith(f"{base}, line 4:")
    assert "MODEL.ROI_HEADS.NUM_CLASS." in text
    assert re.search(r"nearest: MODEL\.ROI_HEADS\.NUM_CLASSES", text)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"),  # the wrong node
        ("MODEL.ROIHEADS.NAME", "MODEL.ROI_HEADS.NAME"),  # a misspelt node
        ("ROI_HEADS.NAME", "MODEL.ROI_HEADS.NAME"),  # a forgotten node
        ("SOLVER.base_lr", "SOLVER.BASE_LR"),  # small letters
        ("DATALOADER.WORKERS", "DATALOADER.NUM_WORKERS"),
    ],
)
def test_unknown_override_names_the_nearest_key(key, nearest):
    text = message(ValueError, "", [key, "1"])
    assert key in text and nearest in text.split("nearest: ")[1]


def test_nothing_is_suggested_where_nothing_is_alike():
    assert "Nothing that exists is like it" in message(ValueError, "", ["ZZZ.QQQQ", "1"])


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("SOLVER: {BASE_LR: 1}", ["SOLVER.BASE_LR", "a float", "1 is an integer", "Write 1.0"]),
        ("SOLVER: {STEPS: 100}", ["SOLVER.STEPS", "a tuple", "(30000,)", "100"]),
        ("MODEL: {MASK_ON: 'yes'}", ["MODEL.MASK_ON", "true or false", "'yes'"]),
        ("MODEL: 3", ["MODEL", "a node", "3"]),
        ("OUTPUT_DIR: {A: 1}", ["OUTPUT_DIR", "a string", "a node"]),
        ("OUTPUT_DIR: 2020-01-01", ["OUTPUT_DIR", "a string", "date"]),
    ],
)
def test_wrong_type_names_line_key_value_and_expected_type(write, line, parts):
    path = write("run.yaml", f"# a comment\n{line}\n")
    text = message(ValueError, path)
    assert text.startswith(f"{path}, line 2:")
    assert all(part in text for part in parts), text


def test_wrong_type_of_an_override():
    text = message(ValueError, "", ["SOLVER.MAX_ITER", "many"])
    assert "SOLVER.MAX_ITER many" in text and "an integer" in text


def test_missing_files_are_named(write, tmp_path):
    assert "nowhere.yaml" in message(FileNotFoundError, str(tmp_path / "nowhere.yaml"))
    path = write("run.yaml", "SEED: 1\n_BASE_: ../up/base.yaml\n")
    text = message(FileNotFoundError, path)
    assert text.startswith(f"{path}, line 2:") and str(tmp_path / "../up/base.yaml") in text


def test_circle_of_bases_is_refused(write):
    write("b.yaml", "_BASE_: a.yaml\nSEED: 1\n")
    assert "leads back" in message(ValueError, write("a.yaml", "_BASE_: b.yaml\nSEED: 1\n"))


@pytest.mark.parametrize("text", ["MODEL:\n  MASK_ON: [True\n", "MODEL:\n\tMASK_ON: True\n", "MODEL: {A: 'x}\n"])
def test_broken_yaml_names_file_and_line(write, text):
    path = write("run.yaml", text)
    assert re.match(rf"{re.escape(path)}, line \d+: this is not YAML", message(ValueError, path))


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words\n"])
def test_file_without_keys_is_refused(write, text):
    assert "this one has none" in message(ValueError, write("run.yaml", text))


def test_key_set_twice_is_refused(write):
    path = write("run.yaml", "MODEL:\n  MASK_ON: True\nSEED: 1\nMODEL:\n  KEYPOINT_ON: True\n")
    assert f"{path}, line 4: MODEL is already set in line 1" in message(ValueError, path)


def test_no_code_runs_from_a_file(write, tmp_path):
    victim = tmp_path / "made_by_code"
    text = f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{victim}"]\n'
    assert "would run code" in message(ValueError, write("run.yaml", text))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("opts", "part"),
    [
        (["SEED"], "last one has no value"),
        (["SEED", "1", "OUTPUT_DIR"], "last one has no value"),
        (["SEED=1"], "write 'SEED 1'"),
        (["SEED", "1", "--resume", "x"], "--resume"),
        (["MODEL", "3"], "a node"),
        (["MODEL.DEVICE.INDEX", "3"], "no config key MODEL.DEVICE.INDEX"),
    ],
)
def test_overrides_that_are_no_pairs_of_key_and_value(opts, part):
    assert part in message(ValueError, "", opts)


def test_a_wrong_override_leaves_no_half_merged_config():
    cfg = get_cfg()
    add_densekit_config(cfg)
    before = cfg.dump()
    from densekit.config_check import check_options

    with pytest.raises(ValueError):
        check_options(cfg, ["SEED", "3", "NOPE", "1"])
    assert cfg.dump() == before


def test_saved_config_loads_again(write):
    cfg = load_config("", ["SOLVER.BASE_LR", "0.03", "MODEL.WEIGHTS", "x.pth"])
    again = load_config(write("config.yaml", cfg.dump()))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.SOLVER.BASE_LR == 0.03


@pytest.mark.skipif(HOST != "builtin", reason="Detectron2 converts files of version 1")
def test_file_of_version_1_is_refused(write):
    path = write("run.yaml", "VERSION: 1\nSEED: 3\n")
    assert f"'{path}' has VERSION 1" in message(ValueError, path)


def test_key_of_a_part_that_the_host_lacks_names_file_and_line(write):
    path = write("run.yaml", "SEED: 1\nMODEL:\n  ROI_BOX_HEAD:\n    USE_FED_LOSS: False\n")
    assert load_config(path).SEED == 1
    path = write("run.yaml", "SEED: 1\nMODEL:\n  ROI_BOX_HEAD:\n    USE_FED_LOSS: True\n")
    if HOST == "builtin":
        assert message(ValueError, path).startswith(f"{path}, line 4: MODEL.ROI_BOX_HEAD.USE_FED_LOSS is True")
    else:
        assert load_config(path).MODEL.ROI_BOX_HEAD.USE_FED_LOSS


def test_every_value_has_its_origin(write):
    write("a.yaml", "MODEL:\n  MASK_ON: True\n  DEVICE: cpu\nSEED: 1\n")
    write("b.yaml", "SEED: 2\n")
    path = write("deep/run.yaml", "_BASE_:\n  - ../a.yaml\n  - ../b.yaml\nMODEL:\n  DEVICE: cuda\n")
    folder = path.removesuffix("/deep/run.yaml")
    opts = ["OUTPUT_DIR", "here"]
    cfg = load_config(path, opts)
    cfg.SOLVER.MAX_ITER = 7
    whole = dict(line.split(": ", 1) for line in describe_config(cfg, path, opts).splitlines())
    assert whole["MODEL.MASK_ON"] == f"True  # {folder}/a.yaml:2"
    assert whole["SEED"] == f"2  # {folder}/b.yaml:1"
    assert whole["MODEL.DEVICE"] == f"'cuda'  # {path}:5"
    assert whole["OUTPUT_DIR"] == "'here'  # command line"
    assert whole["SOLVER.MAX_ITER"] == "7  # adapted"
    assert whole["SOLVER.GAMMA"] == "0.1  # default"
    changed = describe_config(cfg, path, opts, changed_only=True).splitlines()
    assert [line.split(":")[0] for line in changed] == ["MODEL.MASK_ON", "OUTPUT_DIR", "SEED", "SOLVER.MAX_ITER"]
    assert changed[2] == f"SEED: -1 -> 2  # {folder}/b.yaml:1"
    assert explicit_keys(path, opts) == {"MODEL.DEVICE", "OUTPUT_DIR"}
