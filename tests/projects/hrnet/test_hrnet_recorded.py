"""HRNet against recorded outputs of the authors'."""

import pytest

from tests.projects.hrnet.recorded import check
from tests.recorded_cases import assert_agrees


@pytest.mark.parametrize("name", ["hrnet.pt", "hrnet_more.pt"])
def test_agrees_with_the_authors(reference_dir, name):
    assert_agrees(check, reference_dir / name)
