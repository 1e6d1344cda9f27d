"""Swin against numbers recorded from its authors' code."""

from tests.projects.swin.recorded import check
from tests.recorded_cases import assert_agrees


def test_recorded(reference_dir):
    assert_agrees(check, reference_dir / "swin.pt")
