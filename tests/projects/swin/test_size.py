"""Parameters and operations beside the published ones."""

import pytest

from densekit.config_list import read_facts
from densekit.inference.complexity import count_each


def test_the_published_size_of_a_transformer():
    facts = read_facts("swin/classifier_swin_T_imagenet.yaml")
    assert facts.published_size == "29 M, 4.5 G at 224 x 224"
    (one,) = count_each([facts])
    assert one.picture == (224, 224) and one.complexity.parameters == 28_288_354  # as the authors' code counts
    assert one.complexity.operations == pytest.approx(4.49e9, rel=2e-3)
