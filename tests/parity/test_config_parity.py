"""Our default config is a part of Detectron2's, and its published YAML files merge to the same values."""

import importlib
import logging
from pathlib import Path

import pytest

from densekit.runtime.config import get_cfg
from densekit.runtime.config.foreign import FOREIGN_DEFAULTS
from densekit.runtime.modeling import build_model

detectron2 = pytest.importorskip("detectron2")
their_get_cfg = importlib.import_module("detectron2.config").get_cfg

CONFIGS = Path(detectron2.__file__).resolve().parents[1] / "configs"
FOLDERS = (
    *("COCO-Detection", "COCO-InstanceSegmentation", "COCO-Keypoints", "COCO-PanopticSegmentation"),
    *("Cityscapes", "Misc", "PascalVOC-Detection", "quick_schedules"),
)
FILES = sorted(
    [*CONFIGS.glob("Base-*.yaml"), *(file for folder in FOLDERS for file in (CONFIGS / folder).glob("*.yaml"))]
)


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_defaults_are_detectron2s_with_equal_values_and_types():
    theirs, ours = dict(flat(their_get_cfg())), dict(flat(get_cfg()))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert (type(value), value) == (type(theirs[key]), theirs[key]), key


def test_keys_of_parts_we_do_not_have_keep_their_defaults():
    theirs = dict(flat(their_get_cfg()))
    assert all(theirs[key] == value for key, value in FOREIGN_DEFAULTS.items())


def test_config_saved_by_detectron2_loads(tmp_path):
    theirs = their_get_cfg()
    theirs.merge_from_list(["SOLVER.BASE_LR", 0.25, "MODEL.MASK_ON", True])
    path = tmp_path / "config.yaml"
    path.write_text(theirs.dump())
    ours = get_cfg()
    ours.merge_from_file(str(path))
    assert ours.SOLVER.BASE_LR == 0.25 and ours.MODEL.MASK_ON
    assert {key for key, _ in flat(ours)} == {key for key, _ in flat(get_cfg())}
    theirs.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True
    path.write_text(theirs.dump())
    with pytest.raises(ValueError, match="USE_FED_LOSS is True"):
        ours.merge_from_file(str(path))
    with pytest.raises(ValueError, match="USE_SIGMOID_CE is True"):
        get_cfg().merge_from_list(["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True])
    cfg = get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES = 9
    with pytest.raises(ValueError, match="FED_LOSS_NUM_CLASSES is 9"):
        build_model(cfg)


@pytest.mark.skipif(not FILES, reason="the installed Detectron2 came without its configs folder")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_published_files_merge_to_the_same_values(file, caplog):
    caplog.set_level(logging.CRITICAL)
    ours, theirs = get_cfg(), their_get_cfg()
    ours.merge_from_file(str(file))
    theirs.merge_from_file(str(file))
    defaults = dict(flat(their_get_cfg()))
    changed = {key for key, value in flat(theirs) if value != defaults[key]}
    values, their_values = dict(flat(ours)), dict(flat(theirs))
    assert changed <= values.keys()
    assert values == {key: their_values[key] for key in values}
