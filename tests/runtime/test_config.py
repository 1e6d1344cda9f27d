"""CfgNode, the default config and @configurable."""

import pytest
import yaml

from densekit.d2.config import CfgNode, configurable, get_cfg
from densekit.runtime.config import CfgNode as OurNode
from densekit.runtime.config import get_cfg as our_get_cfg
from densekit.runtime.config.arithmetic import evaluate


class Box:
    @configurable
    def __init__(self, size, *, color="red", weight=1.0):
        self.values = size, color, weight

    @classmethod
    def from_config(cls, cfg, size=0):
        return {"size": size or cfg.SIZE, "color": cfg.COLOR}


@configurable(from_config=lambda cfg: {"a": cfg.SIZE})
def double(a, b=1):
    return 2 * a * b


CFG = CfgNode({"SIZE": 3, "COLOR": "blue"})


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (lambda: Box(5), (5, "red", 1.0)),
        (lambda: Box(size=5, weight=2.0), (5, "red", 2.0)),
        (lambda: Box(CFG), (3, "blue", 1.0)),
        (lambda: Box(cfg=CFG), (3, "blue", 1.0)),
        (lambda: Box(CFG, 7), (7, "blue", 1.0)),  # from_config takes it
        (lambda: Box(CFG, size=7), (7, "blue", 1.0)),
        (lambda: Box(CFG, color="green", weight=4.0), (3, "green", 4.0)),  # from_config does not: overrides
    ],
)
def test_constructor_takes_arguments_or_a_config(made, values):
    assert made().values == values


def test_function_takes_arguments_or_a_config():
    assert double(2) == 4 and double(CFG) == 6 and double(cfg=CFG, b=5) == 30
    assert double.from_config(CFG) == {"a": 3}


def test_from_config_of_the_subclass_is_used():
    class Blue(Box):
        @classmethod
        def from_config(cls, cfg, **kwargs):
            return {**super().from_config(cfg), "weight": kwargs.get("weight", 9.0)}

    assert Blue(CFG).values == (3, "blue", 9.0)
    assert Blue(CFG, weight=5.0).values == (3, "blue", 5.0)


def test_empty_parentheses_mean_the_same():
    class Part:
        @configurable()
        def __init__(self, a):
            self.a = a

        @classmethod
        def from_config(cls, cfg):
            return {"a": cfg.SIZE}

    assert Part(CFG).a == 3 and Part(8).a == 8


def test_misuse_is_refused():
    with pytest.raises(AssertionError):
        configurable(lambda self: None)
    with pytest.raises(AssertionError):
        configurable(from_config="not a function")

    class Without:
        @configurable
        def __init__(self, a):
            pass

    with pytest.raises(AttributeError, match="from_config"):
        Without(a=1)

    class NotAClassmethod(Without):
        def from_config(self, cfg):
            return {}

    with pytest.raises(TypeError, match="classmethod"):
        NotAClassmethod(CFG)

    class WrongName(Without):
        @classmethod
        def from_config(cls, config):
            return {"a": 1}

    with pytest.raises(TypeError, match="cfg"):
        WrongName(CFG)


def test_configs_do_not_share_values():
    one, two = get_cfg(), get_cfg()
    one.MODEL.ANCHOR_GENERATOR.SIZES[0].append(1)
    one.MODEL.MASK_ON = True
    assert two.dump() == get_cfg().dump() != one.dump()
    clone = two.clone()
    clone.MODEL.RPN.IN_FEATURES.append("p2")
    assert two.dump() == get_cfg().dump()


def test_frozen_config_takes_computed_keys_only():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 3
    cfg.COMPUTED_ROOM = 4
    cfg.COMPUTED_ROOM = 4
    with pytest.raises(KeyError):
        cfg.COMPUTED_ROOM = 5


def test_merge_refuses_unknown_keys_and_other_types():
    cfg = get_cfg()
    with pytest.raises(KeyError, match=r"MODEL\.NO"):
        cfg.merge_from_other_cfg(CfgNode({"MODEL": {"NO": 1}}))
    with pytest.raises(ValueError, match="SEED"):
        cfg.merge_from_other_cfg(CfgNode({"SEED": "three"}))
    cfg.merge_from_list(["SOLVER.STEPS", [1, 2], "SOLVER.WEIGHT_DECAY_BIAS", 0.5])
    assert cfg.SOLVER.STEPS == (1, 2) and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.5


def test_dump_is_yaml_that_merges_back(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["SEED", 7, "DATASETS.TRAIN", ("a", "b")])
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(path))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.SEED == 7 and again.DATASETS.TRAIN == ("a", "b")


def test_bases_may_be_relative_absolute_in_the_home_folder_or_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home", "near", "far"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / "h.yaml").write_text("SEED: 1\nVIS_PERIOD: 1\n")
    (tmp_path / "far" / "f.yaml").write_text("_BASE_: ../near/n.yaml\nOUTPUT_DIR: far\n")
    (tmp_path / "near" / "n.yaml").write_text("OUTPUT_DIR: near\nVIS_PERIOD: 5\n")
    (tmp_path / "run.yaml").write_text(f"_BASE_: ['~/h.yaml', '{tmp_path}/far/f.yaml']\nMODEL: {{MASK_ON: True}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "run.yaml"))
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.VIS_PERIOD, cfg.MODEL.MASK_ON) == (1, "far", 5, True)
    assert "_BASE_" not in cfg


def test_value_in_place_of_a_base_node_is_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: 3\n")
    (tmp_path / "run.yaml").write_text("_BASE_: base.yaml\nMODEL: {MASK_ON: True}\n")
    with pytest.raises(ValueError, match=r"run\.yaml.*MODEL"):
        our_get_cfg().merge_from_file(str(tmp_path / "run.yaml"))


def test_missing_files_are_named(tmp_path):
    (tmp_path / "run.yaml").write_text("_BASE_: gone.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"run\.yaml.*gone\.yaml"):
        our_get_cfg().merge_from_file(str(tmp_path / "run.yaml"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        our_get_cfg().merge_from_file(str(tmp_path / "nothing.yaml"))


def test_files_are_loaded_safely_even_when_asked_otherwise(tmp_path):
    victim = tmp_path / "made_by_code"
    path = tmp_path / "run.yaml"
    path.write_text(f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{victim}"]\n')
    with pytest.raises(yaml.YAMLError):
        our_get_cfg().merge_from_file(str(path), allow_unsafe=True)
    path.write_text(f"SEED: !!python/object/apply:eval [\"__import__('os').mkdir('{victim}')\"]\n")
    with pytest.raises(yaml.YAMLError, match="not arithmetic"):
        our_get_cfg().merge_from_file(str(path), allow_unsafe=True)
    assert not victim.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "1 + 2 * 3 - 4 / 5",
        "-2**2",
        "7 // 2 % 2",
        "[x * 2**(1.0/3) for x in [32, 64]]",
        "[[x, -x] for x in (1, 2)]",
        "(1,)",
    ],
)
def test_arithmetic_equals_python(expression):
    assert evaluate(expression) == eval(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "open('x')",
        "(1).__class__",
        "x",
        "'a' * 9",
        "[1] * 9",
        "9**9**9",
        "[x for x in 3]",
        "[x for x in [1] if x]",
        "1 if 1 else 2",
    ],
)
def test_everything_else_is_refused(expression):
    with pytest.raises(ValueError):
        evaluate(expression)


def test_settings_of_nodes_are_our_own_type():
    cfg = our_get_cfg()
    assert type(cfg) is type(cfg.MODEL) is type(cfg.MODEL.RPN) is OurNode
