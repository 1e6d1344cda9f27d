"""The reference of configuration keys has all of them, with their comments and owners."""

import pytest

from densekit.config_defaults import all_keys, default_config, key_owners
from densekit.d2 import HOST
from densekit.d2.config import CfgNode
from docs.tools import keys

pytestmark = pytest.mark.skipif(HOST != "builtin", reason="the reference is that of the built-in runtime")


@pytest.fixture(scope="module")
def listed() -> dict[str, keys.Key]:
    return {key.name: key for key in keys.list_keys()}


def test_all_keys_are_there_with_their_defaults(listed):
    cfg = default_config()
    assert list(listed) == list(all_keys(cfg))
    for name, key in listed.items():
        node = cfg
        for part in name.split("."):
            node = node[part]
        assert key.is_node if isinstance(node, CfgNode) else key.default == node


def test_owners_are_the_configurations(listed):
    owners = key_owners()
    assert {name: key.owner for name, key in listed.items() if key.owner.startswith("projects/")} == owners
    assert listed["MODEL.FPN.UPSAMPLER"].owner == "densekit/modeling/fpn.py"
    assert listed["SOLVER.ACCUMULATE"].owner == "densekit" and listed["SOLVER.MAX_ITER"].owner == "Detectron2"


def test_every_key_of_densekit_and_of_systems_has_a_meaning(listed):
    silent = [name for name, key in listed.items() if not key.is_node and key.owner != "Detectron2" and not key.comment]
    assert not silent, silent


def test_comments_are_those_beside_and_above(tmp_path):
    source = tmp_path / "config.py"
    source.write_text(
        "a = 0\n# The side of it;\n# in pixels.\ncfg.SIDE = 3  # k\ncfg.OTHER = 4\n# For both.\ncfg.ONE = 1\n"
        "cfg.TWO = 2  # see above\ncfg.MARK = '#1'\n"
    )
    found = [keys.comment_at(source, line) for line in (4, 5, 7, 8, 9)]
    assert found == ["The side of it; in pixels. k", "", "For both.", "For both.", ""]


def test_the_page_has_a_table_for_each_node_and_escapes_its_columns(listed):
    page = keys.page()
    for name, key in listed.items():
        assert (f"\n## {name}\n" if key.is_node else f"| `{name.rpartition('.')[2]}` |") in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows)
