"""DETR against the recorded outputs of its authors' code and of their Detectron2 wrapper."""

import pytest

from tests.projects.detr.recorded import check
from tests.recorded_cases import assert_agrees


@pytest.mark.parametrize("file", ["detr.pt", "detr_d2.pt"])
def test_recorded(reference_dir, file):
    assert_agrees(check, reference_dir / file)
