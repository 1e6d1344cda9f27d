"""The recorded outputs of the authors' code."""

import pytest

from tests.projects.yolov6.recorded import check
from tests.recorded_cases import assert_agrees


@pytest.mark.parametrize("name", ("main", "csp", "variants", "v021", "ops", "ptq"))
def test_outputs_are_the_recorded_ones(name, reference_dir):
    assert_agrees(check, reference_dir / f"yolov6_{name}.pt")
