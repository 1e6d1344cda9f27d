"""RetinaNet on whichever host runs, against numbers recorded from Detectron2."""

from tests.recorded_cases import assert_agrees
from tests.retinanet.recorded import check


def test_recorded(reference_dir):
    assert_agrees(check, reference_dir / "retinanet.pt")
