import logging
import math

import pytest

from densekit.d2._host import HOST
from densekit.d2.config import CfgNode
from densekit.d2.evaluation import print_csv_format, verify_results
from densekit.d2.evaluation.testing import flatten_results_dict

RESULTS = {"bbox": {"AP": 38.5, "AP50": 59.25, "AP-person": 50.0}, "segm": {"AP": float("nan")}, "speed": 3.0}


def expecting(*entries) -> CfgNode:
    return CfgNode({"TEST": {"EXPECTED_RESULTS": [list(entry) for entry in entries]}})


def test_csv_lines_hold_the_main_metrics_only(caplog):
    with caplog.at_level(logging.INFO):
        print_csv_format(RESULTS)
    assert caplog.messages == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 38.5000,59.2500",
        "copypaste: Task: segm",
        "copypaste: AP",
        "copypaste: nan",
        "copypaste: speed=3.0",
    ]


def test_flatten_joins_names_with_slashes():
    nested = {"a": {"b": {"c": 1.0}, "d": 2.0}, "e": 3.0, "nothing": {}}
    assert flatten_results_dict(nested) == {"a/b/c": 1.0, "a/d": 2.0, "e": 3.0}


@pytest.mark.parametrize(
    "entries", [(), (("bbox", "AP", 38.0, 0.5),), (("bbox", "AP", 39.0, 0.5), ("bbox", "AP50", 59.25, 0.0))]
)
def test_expected_results_met(entries):
    assert verify_results(expecting(*entries), RESULTS) is True


@pytest.mark.parametrize("entry", [("bbox", "AP", 37.9, 0.5), ("segm", "AP", 30.0, 100.0), ("bbox", "AP75", 40.0, 1.0)])
def test_expected_results_not_met_end_the_process(entry):
    with pytest.raises(SystemExit) as stopped:
        verify_results(expecting(("bbox", "AP", 38.5, 0.1), entry), RESULTS)
    assert stopped.value.code == 1


@pytest.mark.skipif(HOST != "builtin", reason="Detectron2 words this otherwise")
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (("keypoints", "AP", 50.0, 1.0), "no task 'keypoints' in the results (tasks: bbox, segm, speed)"),
        (("bbox", "APx", 50.0, 1.0), "task 'bbox' has no metric 'APx' (metrics: AP, AP50, AP-person)"),
        (("bbox", "AP", 50.0, 1.0), "bbox/AP is 38.5000, expected 50.0 +- 1.0"),
        (("segm", "AP", 50.0, math.inf), "segm/AP is nan"),
    ],
)
def test_each_unmet_number_is_explained(entry, words, caplog):
    with pytest.raises(SystemExit):
        verify_results(expecting(entry), RESULTS)
    assert words in caplog.text


@pytest.mark.skipif(HOST != "builtin", reason="Detectron2 fails on unpacking")
@pytest.mark.parametrize("entry", [("bbox", "AP", 38.5), ("bbox", "AP", "much", 1.0)])
def test_malformed_expectation_is_named(entry):
    with pytest.raises(ValueError, match=r"EXPECTED_RESULTS.*\[task, metric, expected, tolerance\]"):
        verify_results(expecting(entry), RESULTS)
