"""Backbones under heads of other systems, by keys alone."""

import pytest

from tests.contract.matrix import BACKBONES, HEADS, configuration, covering, take_a_step


@pytest.mark.parametrize(("backbone", "head"), covering(), ids=lambda name: name)
def test_a_pair_takes_a_step(backbone, head):
    if backbone == "timm":
        pytest.importorskip("timm", reason="needs the optional package timm")
    take_a_step(configuration(backbone, head))


def test_the_subset_has_every_backbone_and_every_head():
    assert {backbone for backbone, _ in covering()} == set(BACKBONES)
    assert {head for _, head in covering()} == set(HEADS)
