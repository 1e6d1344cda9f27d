"""The Cityscapes evaluators against cityscapesscripts' own command line, on spoiled ground truth."""

import json
import math
import re

import cityscapes_scenes as scenes
import numpy as np
import pytest

from densekit.evaluation.cityscapes import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator

pytestmark = pytest.mark.usefixtures("restore_catalogs")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return scenes.make_tree(tmp_path_factory.mktemp("tree"))


def evaluate(evaluator, items, output, **options):
    for item in items:
        evaluator.process([item], [{evaluator.output: output(item, **options)}])
    return dict(evaluator.evaluate()[evaluator.task])


def semantic(root, folder):
    scenes.register("city_sem", root).set(stuff_classes=scenes.CLASSES)
    return CityscapesSemSegEvaluator("city_sem", str(folder))


def instance(root, folder):
    scenes.register("city_inst", root).set(thing_classes=scenes.THINGS)
    return CityscapesInstanceEvaluator("city_inst", str(folder))


def printed_rows(text, count):
    """The rows of a printed table: a name and ``count`` numbers."""
    rows = re.findall(rf"^([a-z][a-z ]*?)\s*:((?:\s+(?:nan|[\d.]+)){{{count}}})\s*$", text, flags=re.MULTILINE | re.I)
    return [(name, numbers.split()) for name, numbers in rows]


def test_semantic_figures_are_those_of_the_script(root, tmp_path):
    found = evaluate(semantic(root, tmp_path), scenes.images(root), scenes.semantic_scores)
    text = scenes.run_script("evalPixelLevelSemanticLabeling", tmp_path / "cli", root, tmp_path / "semantic")
    rows = printed_rows(text, 2)
    assert [name for name, _ in rows] == [
        *scenes.CLASSES, "Score Average", "flat", "construction", "object", "nature", "sky", "human", "vehicle",
        "Score Average",
    ]  # fmt: skip
    for suffix, part in (("", rows[:20]), ("_sup", rows[20:])):
        for name, numbers in part:
            end = f"{suffix}" if name == "Score Average" else f"{suffix}-{name}"
            for metric, number in zip(("IoU", "iIoU"), numbers):
                assert f"{found.get(metric + end, math.nan) / 100:.3f}" == number, metric + end
    theirs = scenes.exported(root, "resultPixelLevelSemanticLabeling")
    assert found["IoU"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-11)
    assert found["iIoU_sup"] == pytest.approx(100 * theirs["averageScoreInstCategories"], abs=1e-11)
    ours = json.loads((tmp_path / "semantic/resultPixelLevelSemanticLabeling.json").read_text())
    assert ours["confMatrix"] == theirs["confMatrix"]
    assert 20 < found["iIoU"] < 95 and 20 < found["IoU"] < 95


def test_instance_figures_are_those_of_the_script(root, tmp_path):
    found = evaluate(instance(root, tmp_path), scenes.images(root), scenes.instances)
    text = scenes.run_script("evalInstanceLevelSemanticLabeling", tmp_path / "cli", root, tmp_path / "instances")
    rows = printed_rows(text, 2)
    assert [name for name, _ in rows] == [*scenes.THINGS, "average"]
    for name, numbers in rows:
        end = "" if name == "average" else f"-{name}"
        assert [f"{found[metric + end] / 100:.3f}" for metric in ("AP", "AP50")] == numbers
    theirs = scenes.exported(root, "resultInstanceLevelSemanticLabeling")
    ours = json.loads((tmp_path / "instances/resultInstanceLevelSemanticLabeling.json").read_text())
    matrix = [np.array(one["resultApMatrix"], dtype=float) for one in (ours, theirs)]  # null and NaN
    np.testing.assert_allclose(*matrix, rtol=0, atol=1e-12)
    assert 5 < found["AP"] < found["AP50"] < 95
