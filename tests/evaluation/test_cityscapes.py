"""The Cityscapes evaluators against cityscapesscripts' own command line, on spoiled ground truth."""

import copy
import json
import math
import re

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.structures import Instances
from densekit.evaluation import SemSegEvaluator
from densekit.evaluation.cityscapes import CityscapesSemSegEvaluator
from densekit.evaluation.cityscapes.frames import ground_truth
from densekit.evaluation.cityscapes.instance_scores import score_instances
from tests import cityscapes_scenes as scenes

TASKS = {"semantic": "sem_seg", "instances": "segm", "panoptic": "panoptic_seg"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return scenes.make_tree(tmp_path_factory.mktemp("tree"))


def evaluate(kind, root, folder, items=None, **options):
    make, predict = scenes.EVALUATORS[kind]
    evaluator = make(root, folder)
    for item in scenes.images(root) if items is None else items:
        evaluator.process([item], [{scenes.OUTPUTS[kind]: predict(item, **options)}])
    return dict(evaluator.evaluate()[TASKS[kind]])


def printed_rows(text, count, separator=":"):
    """The rows of a printed table: a name and ``count`` numbers."""
    number = r"\s+(?:nan|[\d.]+)"
    rows = re.findall(rf"^([a-z][a-z ]*?)\s*[{separator}]((?:{number}){{{count}}})", text, flags=re.M | re.I)
    return [(name, numbers.split()) for name, numbers in rows]


def test_semantic_figures_are_those_of_the_script(root, tmp_path):
    found = evaluate("semantic", root, tmp_path)
    text = scenes.run_script("evalPixelLevelSemanticLabeling", tmp_path / "cli", root, tmp_path / "semantic")
    rows = printed_rows(text, 2)
    assert [name for name, _ in rows] == [
        *scenes.CLASSES, "Score Average", "flat", "construction", "object", "nature", "sky", "human", "vehicle",
        "Score Average",
    ]  # fmt: skip
    for suffix, part in (("", rows[:20]), ("_sup", rows[20:])):
        for name, numbers in part:
            end = suffix if name == "Score Average" else f"{suffix}-{name}"
            for metric, number in zip(("IoU", "iIoU"), numbers):
                assert f"{found.get(metric + end, math.nan) / 100:.3f}" == number, metric + end
    theirs = scenes.exported(root, "resultPixelLevelSemanticLabeling")
    ours = json.loads((tmp_path / "semantic/resultPixelLevelSemanticLabeling.json").read_text())
    assert ours["confMatrix"] == theirs["confMatrix"]
    assert found["iIoU"] == pytest.approx(100 * theirs["averageScoreInstClasses"], abs=1e-11)
    assert found["iIoU_sup"] == pytest.approx(100 * theirs["averageScoreInstCategories"], abs=1e-11)
    assert 20 < found["iIoU"] < 95 and 20 < found["IoU"] < 95


def test_the_evaluator_of_any_label_maps_gives_the_iou_of_the_script(root, tmp_path):
    """The same predictions, judged as a data set of images and label maps is."""
    evaluate("semantic", root, tmp_path)
    scenes.run_script("evalPixelLevelSemanticLabeling", tmp_path / "cli", root, tmp_path / "semantic")
    theirs = scenes.exported(root, "resultPixelLevelSemanticLabeling")["classScores"]
    items = scenes.images(root)
    values = dict.fromkeys(range(256), 255) | {key: k for k, key in enumerate(scenes.CLASS_IDS)}
    records = [
        {"file_name": item["file_name"], "height": 128, "width": 256, "sem_seg_values": values,
         "sem_seg_file_name": str(ground_truth(root / "gtFine/val", "labelIds")[item["image_id"]])}
        for item in items
    ]  # fmt: skip
    DatasetCatalog.register("any_maps", lambda: records)
    MetadataCatalog.get("any_maps").set(stuff_classes=scenes.CLASSES, ignore_label=255)
    evaluator = SemSegEvaluator("any_maps")
    for item in items:
        evaluator.process([item], [{"sem_seg": scenes.semantic_scores(item)}])
    found = evaluator.evaluate()["sem_seg"]
    annotated = [name for name in scenes.CLASSES if not math.isnan(found[f"IoU-{name}"])]
    assert len(annotated) > 10
    for name in annotated:
        assert found[f"IoU-{name}"] == pytest.approx(100 * theirs[name], abs=1e-11)
    assert found["mIoU"] == pytest.approx(100 * np.mean([theirs[name] for name in annotated]), abs=1e-11)


def test_instance_figures_are_those_of_the_script(root, tmp_path):
    found = evaluate("instances", root, tmp_path)
    text = scenes.run_script("evalInstanceLevelSemanticLabeling", tmp_path / "cli", root, tmp_path / "instances")
    rows = printed_rows(text, 2)
    assert [name for name, _ in rows] == [*scenes.THINGS, "average"]
    for name, numbers in rows:
        end = "" if name == "average" else f"-{name}"
        assert [f"{found[metric + end] / 100:.3f}" for metric in ("AP", "AP50")] == numbers
    theirs = scenes.exported(root, "resultInstanceLevelSemanticLabeling")
    ours = json.loads((tmp_path / "instances/resultInstanceLevelSemanticLabeling.json").read_text())
    matrices = [np.array(one["resultApMatrix"], dtype=float) for one in (ours, theirs)]  # null or NaN
    np.testing.assert_allclose(*matrices, rtol=0, atol=1e-12)
    assert 5 < found["AP"] < found["AP50"] < 95


def test_panoptic_figures_are_those_of_the_script(root, tmp_path):
    found = evaluate("panoptic", root, tmp_path)
    prediction = tmp_path / "panoptic/cityscapes_panoptic_val.json"
    text = scenes.run_script(
        "evalPanopticSemanticLabeling", tmp_path / "cli", root, tmp_path, "--prediction-json-file", prediction
    )
    rows = printed_rows(text, 3, separator="|")
    ends = {"All": "", "Things": "_th", "Stuff": "_st"}
    assert [name for name, _ in rows] == [*sorted(scenes.CLASSES, key=scenes.CLASSES.index), *ends]
    for name, numbers in rows:
        ours = [found[metric + ends.get(name, f"-{name}")] for metric in ("PQ", "SQ", "RQ")]
        # What is neither annotated nor predicted is NaN here and 0 there, and counts in no mean.
        assert [f"{0 if math.isnan(value) else value:.1f}" for value in ours] == numbers, name
    theirs = json.loads((tmp_path / "cli/resultPanopticSemanticLabeling.json").read_text())
    for name, end in ends.items():
        for metric in ("PQ", "SQ", "RQ"):
            assert found[metric + end] == pytest.approx(100 * theirs[name][metric.lower()], abs=1e-11)
    assert 20 < found["PQ"] < 95 and found["PQ_th"] != found["PQ_st"]


@pytest.mark.parametrize("kind", scenes.EVALUATORS)
def test_the_truth_scores_100(root, tmp_path, kind):
    found = evaluate(kind, root, tmp_path, perfect=True)
    defined = {name: value for name, value in found.items() if not math.isnan(value)}
    assert len(defined) > 10
    assert defined == pytest.approx(dict.fromkeys(defined, 100))


@pytest.mark.parametrize("kind", scenes.EVALUATORS)
def test_a_missing_prediction_is_named_with_the_file_that_was_expected(root, tmp_path, kind):
    items = scenes.images(root)
    evaluate(kind, root, tmp_path)
    files = sorted(path for path in tmp_path.rglob(f"{items[2]['image_id']}_*") if path.is_file())
    # What an earlier evaluation has left does not stand in for what this one lacks.
    with pytest.raises(ValueError, match=f"2 of 8 frames.*{items[2]['image_id']}.*{files[0]}"):
        evaluate(kind, root, tmp_path, items=items[:2] + items[4:])


@pytest.mark.parametrize("kind", scenes.EVALUATORS)
def test_a_lost_file_is_named(root, tmp_path, kind):
    make, predict = scenes.EVALUATORS[kind]
    evaluator = make(root, tmp_path)
    for item in scenes.images(root):
        evaluator.process([item], [{scenes.OUTPUTS[kind]: predict(item)}])
    lost = sorted(path for path in tmp_path.rglob("*_000003_*") if path.is_file())[0]
    lost.unlink()
    with pytest.raises(ValueError, match=f"1 of 8 frames.*{lost}"):
        evaluator.evaluate()


def test_a_model_without_the_output_is_refused_unless_it_is_optional(root, tmp_path):
    for kind in scenes.EVALUATORS:
        evaluator = scenes.EVALUATORS[kind][0](root, tmp_path)
        evaluator.process(scenes.images(root), [{}] * 8)
        with pytest.raises(ValueError, match="8 of 8 frames"):
            evaluator.evaluate()
    optional = CityscapesSemSegEvaluator("city_sem", str(tmp_path), required=False)
    optional.process(scenes.images(root), [{}] * 8)
    assert optional.evaluate() == {}


def test_nothing_found_is_a_result(root, tmp_path):
    def nothing(item):
        found = Instances(item["truth"].shape)
        found.pred_masks = torch.zeros(0, *item["truth"].shape, dtype=torch.bool)
        found.pred_classes, found.scores = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        return found

    evaluator = scenes.instance_evaluator(root, tmp_path)
    for item in scenes.images(root):
        evaluator.process([item], [{"instances": nothing(item)}])
    found = evaluator.evaluate()["segm"]
    assert found["AP"] == found["AP-car"] == 0
    assert math.isnan(found["AP-train"])
    evaluator = scenes.panoptic_evaluator(root, tmp_path)
    for item in scenes.images(root):
        evaluator.process([item], [{"panoptic_seg": (torch.zeros(item["truth"].shape, dtype=torch.int32), [])}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 0


def test_fewer_detections_leave_no_masks_of_an_earlier_evaluation(root, tmp_path):
    evaluate("instances", root, tmp_path)
    before = set(tmp_path.rglob("*.png"))
    item = max(scenes.images(root), key=lambda item: len(scenes.instances(item)))
    evaluator = scenes.instance_evaluator(root, tmp_path)
    evaluator.process([item], [{"instances": scenes.instances(item)[:2]}])
    listed = (tmp_path / "instances" / f"{item['image_id']}_pred.txt").read_text().splitlines()
    kept = {tmp_path / "instances" / line.split()[0] for line in listed}
    assert len(kept) == 2
    gone = before - set(tmp_path.rglob("*.png"))
    assert set((tmp_path / "instances" / item["image_id"]).iterdir()) == kept
    assert len(gone) == len(scenes.instances(item)) - 2


def test_files_have_the_form_of_the_benchmark(root, tmp_path):
    for kind in scenes.EVALUATORS:
        evaluate(kind, root, tmp_path)
    item = scenes.images(root)[4]
    labels = cv2.imread(str(tmp_path / "semantic" / f"{item['image_id']}_pred.png"), cv2.IMREAD_UNCHANGED)
    classes = scenes.semantic_scores(item).argmax(dim=0).numpy()
    assert np.array_equal(labels, np.array(scenes.CLASS_IDS)[classes])
    found = scenes.instances(item)
    lines = (tmp_path / "instances" / f"{item['image_id']}_pred.txt").read_text().splitlines()
    for k, line in enumerate(lines):
        name, label, score = line.split(" ")
        assert int(label) == scenes.THING_IDS[found.pred_classes[k]]
        assert float(score) == found.scores[k].item()
        mask = cv2.imread(str(tmp_path / "instances" / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, 255 * found.pred_masks[k].numpy())
    assert len(lines) == len(found)
    document = json.loads((tmp_path / "panoptic/cityscapes_panoptic_val.json").read_text())
    truth = json.loads((root / "gtFine/cityscapes_panoptic_val.json").read_text())
    assert document.keys() == truth.keys() and document["categories"] == truth["categories"]


def test_masks_are_ranked_by_their_own_scores_where_there_are_some(root, tmp_path):
    item = scenes.images(root)[1]
    found = scenes.instances(item)
    found.mask_scores = found.scores / 2
    scenes.instance_evaluator(root, tmp_path).process([item], [{"instances": found}])
    lines = (tmp_path / "instances" / f"{item['image_id']}_pred.txt").read_text().splitlines()
    assert [float(line.split(" ")[2]) for line in lines] == (found.scores / 2).tolist()


def test_where_nothing_counts_the_numbers_are_undefined_and_the_log_says_why(tmp_path, caplog):
    root = scenes.make_tree(tmp_path / "secret", frames=2)
    for path in root.glob("gtFine/val/*/*Ids.png"):
        cv2.imwrite(str(path), 0 * cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    for kind in ("semantic", "instances"):
        found = evaluate(kind, root, tmp_path / "run")
        assert all(math.isnan(value) for value in found.values())
        assert "densekit submit" in caplog.text
        caplog.clear()
    assert "NaN" not in (tmp_path / "run/instances/resultInstanceLevelSemanticLabeling.json").read_text()


def test_bad_predictions_and_metadata_are_named(root, tmp_path):
    item = scenes.images(root)[0]
    semantic = scenes.semantic_evaluator(root, tmp_path)
    with pytest.raises(ValueError, match=r"SEM_SEG_HEAD.NUM_CLASSES must be 19"):
        semantic.process([item], [{"sem_seg": torch.zeros(20, 4, 4)}])
    for k in scenes.images(root):
        semantic.process([k], [{"sem_seg": torch.zeros(19, 4, 4)}])
    with pytest.raises(ValueError, match=r"4 x 4 pixels, but .*labelIds.png has 256 x 128"):
        semantic.evaluate()
    instance = scenes.instance_evaluator(root, tmp_path)
    found = scenes.instances(item)
    found.pred_classes[:] = 8
    with pytest.raises(ValueError, match=r"ROI_HEADS.NUM_CLASSES must be 8"):
        instance.process([item], [{"instances": found}])
    found.remove("pred_masks")
    with pytest.raises(ValueError, match=r"MODEL\.MASK_ON True"):
        instance.process([item], [{"instances": found}])
    scenes.register("city_other", root, stuff_classes=["road", "meadow"])
    with pytest.raises(ValueError, match=r"'city_other' are not Cityscapes': \['meadow'\]"):
        CityscapesSemSegEvaluator("city_other", str(tmp_path)).process([item], [{"sem_seg": torch.zeros(2, 4, 4)}])
    MetadataCatalog.get("city_bare").set(stuff_classes=["road"])
    bare = CityscapesSemSegEvaluator("city_bare", str(tmp_path))
    bare.process([item], [{"sem_seg": torch.zeros(1, 4, 4)}])
    with pytest.raises(ValueError, match=r"no 'gt_dir'"):
        bare.evaluate()


def test_a_split_without_ground_truth_keeps_its_predictions(root, tmp_path, caplog):
    MetadataCatalog.get("city_secret").set(stuff_classes=scenes.CLASSES, gt_dir=str(tmp_path / "gtFine/test"))
    evaluator = CityscapesSemSegEvaluator("city_secret", str(tmp_path))
    for item in scenes.images(root):
        evaluator.process([item], [{"sem_seg": scenes.semantic_scores(item)}])
    assert evaluator.evaluate() == {}
    assert "no ground truth" in caplog.text
    assert len(list((tmp_path / "semantic").glob("*_pred.png"))) == 8


def test_an_overlap_of_exactly_the_threshold_is_too_small(tmp_path):
    truth = np.full((24, 20), 7, np.uint16)
    truth[:10] = 24000
    truth[12:22, :10] = 3  # void
    masks = {"half": 0.9, "half_on_void": 0.8, "whole": 0.5}
    pictures = {name: np.zeros(truth.shape, np.uint8) for name in masks}
    pictures["half"][:10, :10] = pictures["whole"][:10] = pictures["half_on_void"][12:22, 5:15] = 255
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    cv2.imwrite(str(tmp_path / "a_gtFine_instanceIds.png"), truth)
    listing = tmp_path / "a_pred.txt"
    listing.write_text("".join(f"{name}.png 24 {score}\n" for name, score in masks.items()))
    found = score_instances([(listing, tmp_path / "a_gtFine_instanceIds.png")])["averages"]
    # Two false masks come before the true one, whose precision is 1/3; the line to it starts at 0.
    assert found["allAp"] == found["allAp50%"] == pytest.approx(1 / 6)


def random_frame(rng):
    """A small instance map with objects, groups and void, and overlapping masks of two classes with tied scores."""
    truth = np.full((24, 40), 7, np.uint16)
    for _ in range(rng.integers(0, 9)):
        value = rng.choice([3, 24, 26, 24000, 24001, 24002, 26000, 26001])
        y, x = rng.integers(0, 20), rng.integers(0, 30)
        truth[y : y + rng.integers(2, 16), x : x + rng.integers(4, 20)] = value
    masks = []
    for _ in range(rng.integers(0, 9)):
        mask = np.roll(truth == rng.choice(np.unique(truth)), rng.integers(-2, 3, 2), axis=(0, 1))
        masks.append((np.uint8(255) * mask, rng.choice([24, 26]), rng.choice([0.2, 0.5, 0.9])))
    return truth, masks


def matches_of(truth, masks):
    """The same in the form in which the script's evaluateMatches takes it."""
    found = {name: [] for name in scenes.THINGS}
    objects = {name: [] for name in scenes.THINGS}
    for value in np.unique(truth).tolist():
        label = value if value < 1000 else value // 1000
        if label in scenes.THING_IDS:
            entry = {"instID": value, "pixelCount": int((truth == value).sum()), "medDist": -1, "distConf": 0.0}
            objects[scenes.THINGS[scenes.THING_IDS.index(label)]].append({**entry, "matchedPred": []})
    for mask, label, score in masks:
        name, area = scenes.THINGS[scenes.THING_IDS.index(label)], int((mask > 0).sum())
        entry = {"confidence": score, "pixelCount": area, "voidIntersection": int((truth == 3)[mask > 0].sum())}
        matched = []
        for one in objects[name]:
            if shared := int((truth == one["instID"])[mask > 0].sum()):
                one["matchedPred"].append({**entry, "intersection": shared})
                matched.append({**one, "intersection": shared})
        if area:
            found[name].append({**entry, "matchedGt": matched})
    return {"groundTruth": objects, "prediction": found}


def test_precisions_are_those_of_the_script_on_many_small_maps(tmp_path):
    (tmp_path / "a").mkdir()
    compared = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        files, matches = [], {}
        for k in range(rng.integers(1, 5)):
            truth, masks = random_frame(rng)
            matches[k] = matches_of(truth, masks)
            cv2.imwrite(str(tmp_path / f"{k}_gtFine_instanceIds.png"), truth)
            lines = []
            for n, (mask, label, score) in enumerate(masks):
                cv2.imwrite(str(tmp_path / f"a/{k}_{n}.png"), mask)
                lines.append(f"a/{k}_{n}.png {label} {score}\n")
            (tmp_path / f"{k}_pred.txt").write_text("".join(lines))
            files.append((tmp_path / f"{k}_pred.txt", tmp_path / f"{k}_gtFine_instanceIds.png"))
        ours = np.array(score_instances(files)["resultApMatrix"], dtype=float)
        args = copy.copy(script.args)
        script.setInstanceLabels(args)
        try:
            theirs = script.evaluateMatches(matches, args)
        except IndexError:  # where every mask of a class is ignored the script fails
            continue
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
        compared += 1
    assert compared > 40
