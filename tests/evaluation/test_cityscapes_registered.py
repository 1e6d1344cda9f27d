"""From a registered Cityscapes tree to the evaluators that its data sets get."""

import math
import shutil
import zipfile

import cv2
import pytest
import torch

from densekit.cli import main
from densekit.config_defaults import add_densekit_config
from densekit.d2.config import get_cfg
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.cityscapes import cityscapes_entries
from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
from densekit.data.prepare_cityscapes import make_panoptic
from densekit.data.registry import register
from densekit.evaluation import build_evaluator, check_evaluation
from tests import cityscapes_scenes as scenes


@pytest.fixture
def tree(tmp_path):
    root = scenes.make_tree(tmp_path, frames=3)
    for entry in (
        *cityscapes_entries("tree_fine", str(root), "gtFine", ["val"]),
        *cityscapes_panoptic_entries("tree_fine_panoptic", str(root), ["val"]),
    ):
        register(entry)
    return root


def separated(item):
    """The true segments with the classes of Panoptic FPN: things 0 .. 7, stuff 1 .. 11."""
    ids, segments = scenes.panoptic(item, perfect=True)
    for segment in segments:
        label = scenes.CLASS_IDS[segment["category_id"]]
        segment["category_id"] = (
            scenes.THING_IDS.index(label) if segment["isthing"] else scenes.STUFF_IDS.index(label) + 1
        )
    return ids, segments


def stuff_scores(item):
    """Scores of Panoptic FPN's semantic branch: the things as one class before those of stuff."""
    scores = scenes.semantic_scores(item, perfect=True)
    return torch.cat([scores[len(scenes.STUFF) :].sum(dim=0, keepdim=True), scores[: len(scenes.STUFF)]])


def numbered_as_all(found):
    found.pred_classes = found.pred_classes + len(scenes.STUFF)
    return found


@pytest.mark.parametrize(
    ("name", "outputs", "tasks"),
    [
        ("tree_fine_instance_seg_val", ["instances"], ["segm"]),
        ("tree_fine_sem_seg_val", ["sem_seg"], ["sem_seg"]),
        ("tree_fine_panoptic_val", ["panoptic_seg"], ["panoptic_seg", "sem_seg"]),
        ("tree_fine_panoptic_val_separated", ["separated"], ["panoptic_seg", "sem_seg"]),
        ("tree_fine_panoptic_val", ["panoptic_seg", "all", "sem_seg"], ["panoptic_seg", "segm", "sem_seg"]),
        (
            "tree_fine_panoptic_val_separated",
            ["separated", "instances", "stuff"],
            ["panoptic_seg", "segm", "sem_seg"],
        ),
    ],
)
def test_each_form_gets_its_evaluators_and_the_truth_scores_100(tree, tmp_path, name, outputs, tasks):
    make = {
        "instances": ("instances", lambda item: scenes.instances(item, perfect=True)),
        "all": ("instances", lambda item: numbered_as_all(scenes.instances(item, perfect=True))),
        "sem_seg": ("sem_seg", lambda item: scenes.semantic_scores(item, perfect=True)),
        "panoptic_seg": ("panoptic_seg", lambda item: scenes.panoptic(item, perfect=True)),
        "separated": ("panoptic_seg", separated),
        "stuff": ("sem_seg", stuff_scores),
    }
    cfg = get_cfg()
    add_densekit_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    evaluator = build_evaluator(cfg, name)
    truth = {item["file_name"]: item["truth"] for item in scenes.images(tree)}
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        item = {"image_id": scenes.frame(record["file_name"]), "truth": truth[record["file_name"]]}
        evaluator.process([record], [{make[output][0]: make[output][1](item) for output in outputs}])
    results = evaluator.evaluate()
    assert list(results) == tasks
    for task in tasks:
        defined = {metric: value for metric, value in results[task].items() if not math.isnan(value)}
        assert defined and defined == pytest.approx(dict.fromkeys(defined, 100))
    assert "sem_seg" not in tasks or results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert (tmp_path / "run/inference" / name).is_dir()


def test_what_only_the_evaluation_needs_is_missed_before_the_training(tree):
    names = [name for name in DatasetCatalog.list() if name.startswith("tree_")]
    check_evaluation(names)
    shutil.rmtree(tree / "gtFine/cityscapes_panoptic_val")
    with pytest.raises(FileNotFoundError, match=rf"cityscapes_panoptic_val.*prepare_cityscapes.py --root {tree}"):
        check_evaluation(names)
    MetadataCatalog.get("tree_odd").evaluator_type = "audio"
    with pytest.raises(ValueError, match="'audio'"):
        check_evaluation(["tree_odd"])


def test_a_test_split_without_annotations_can_be_submitted(tmp_path, caplog):
    """As Cityscapes publishes it: every label file is there, and says nothing."""
    tree = scenes.make_tree(tmp_path, frames=2)
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(tree / kind / "val", tree / kind / "test")
    for path in tree.glob("gtFine/test/*/*Ids.png"):
        cv2.imwrite(str(path), 0 * cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    make_panoptic(tree / "gtFine", "test", 1, False)
    for entry in cityscapes_panoptic_entries("secret_panoptic", str(tree), ["test"]):
        register(entry)
    name = "secret_panoptic_test"
    evaluator = build_evaluator(get_cfg(), name, str(tmp_path / "inference" / name))
    truth = {item["image_id"]: item for item in scenes.images(tree)}
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [{"panoptic_seg": scenes.panoptic(truth[record["image_id"]])}])
    results = evaluator.evaluate()
    assert all(math.isnan(value) for value in results["panoptic_seg"].values())
    assert "Nothing in the ground truth" in caplog.text
    assert main(["submit", str(tmp_path / "inference"), "--kind", "panoptic", "--output", str(tmp_path / "a.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert "cityscapes_panoptic_test.json" in archive.namelist() and len(archive.namelist()) == 3


def test_classes_beyond_those_of_the_data_set_name_the_key(tree, tmp_path):
    evaluator = build_evaluator(get_cfg(), "tree_fine_sem_seg_val", str(tmp_path))
    with pytest.raises(ValueError, match=r"SEM_SEG_HEAD\.NUM_CLASSES must be 19"):
        evaluator.process(scenes.images(tree)[:1], [{"sem_seg": torch.zeros(12, 8, 8)}])
