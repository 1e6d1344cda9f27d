"""The page of ``densekit report``: its numbers are the evaluators', its text is text, its JSON is JSON."""

import contextlib
import html
import io
import json
import re

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densekit.cli import main
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.metrics.detection_errors import FALSE, TRUE, match_image
from densekit.metrics.panoptic_quality import panoptic_quality
from densekit.metrics.semantic_scores import semantic_scores
from densekit.report.evaluation_page import evaluation_page
from densekit.report.gallery import instance_gallery
from densekit.report.instance_page import THRESHOLDS, InstanceImage, Instances, instances_data, read_instances
from densekit.report.panoptic_page import read_panoptic
from densekit.report.run_files import read_run
from densekit.report.semantic_page import read_semantic
from densekit.report.shapes import outline
from tests.report.conftest import MANY, ellipse_rle


def page_data(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def official(json_file, results, task):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(json_file))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), task)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def cells(text, row):
    """The numbers in the row of the class table that begins with a name."""
    found = next(part for part in text.split("<tr>") if f'class="name">{row}<' in part)
    return [float(value) for value in re.findall(r'class="num">([\d.,]+|n/a)</td>', found)[1:] if value != "n/a"]


def test_numbers_are_those_of_pycocotools(instance_run):
    run, json_file, results = instance_run
    text = evaluation_page(read_run(run, None), 4)
    data = page_data(text)
    expected = []
    for task in ("bbox", "segm"):
        precision = official(json_file, results, task).eval["precision"][:, :, :, 0, -1]
        for number in range(2):
            table = precision[:, :, number]
            curves = data["instances"]["recall"][task][str(number)]
            expected_curves = np.stack([table[0], table[5], table.mean(axis=0)])
            np.testing.assert_allclose([curve["precision"] for curve in curves], expected_curves, atol=6e-5)
            np.testing.assert_allclose([curve["area"] for curve in curves], 100 * expected_curves.mean(1), atol=6e-5)
        assert "2" not in data["instances"]["recall"][task]  # a class without objects has no curve
        defined = precision[:, :, :2]
        mean = data["instances"]["recall"][task]["all"][2]["precision"]
        np.testing.assert_allclose(mean, defined.mean(axis=(0, 2)), atol=6e-5)
        expected.append(100 * precision[:, :, 0].mean())
    assert cells(text, "person") == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_fates_of_detections_are_those_of_pycocotools(instance_run, task):
    """Which detections are right, wrong or ignored at an IoU of 0.5, and which objects were found."""
    run, json_file, results = instance_run
    found = json.loads(results.read_text())
    if task == "bbox":
        for result in found:
            del result["segmentation"]
        results.write_text(json.dumps(found))
    instances = read_instances(read_run(run, None), DatasetCatalog.get("scene"), found)
    assert instances.matched_by == task
    evaluation = official(json_file, results, task)
    theirs = {}
    for entry in evaluation.evalImgs:
        if entry is not None and entry["aRng"] == [0, 1e10]:
            for key, match, ignore in zip(entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0]):
                theirs[key] = -1 if ignore else int(match > 0)
    ours, number = {}, 0
    for image in instances.images:
        for fate in image.matches.fate.tolist():
            number += 1
            ours[number] = fate
    assert ours == theirs
    assert {-1, 0, 1} <= set(ours.values())
    taken = sum(int((image.matches.found_score >= 0).sum()) for image in instances.images)
    assert taken == sum(fate == TRUE for fate in ours.values())


def test_images_that_cannot_be_judged_are_ranked_nowhere(tmp_path):
    """The one without objects and detections stands between the others, and must not split their order."""
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])

    def image(objects, detections):
        scores, classes = np.full(detections, 0.9), np.zeros(detections, dtype=int)
        overlaps = (boxes[:detections, None] == boxes[None, :objects]).all(-1).astype(float)
        nothing = np.zeros(objects, dtype=bool)
        matches = match_image(scores, classes, np.zeros(objects, dtype=int), nothing, overlaps)
        return InstanceImage(str(tmp_path / f"{objects}-{detections}.jpg"), [], [], matches)

    images = [image(*counts) for counts in ((1, 1), (0, 0), (3, 1), (0, 0), (3, 2), (0, 0), (3, 0))]
    gallery = str(instance_gallery(Instances({1: "a"}, {}, images, "bbox"), MetadataCatalog.get("none"), 4))
    ranks = re.findall(r'<figure[^>]*?data-worst="(\d)".*?<b>(\S+)\.jpg', gallery)
    assert [name for _, name in sorted(ranks)] == ["3-0", "3-1", "3-2", "1-1"]


def test_confusion_counts_everything_once(instance_run):
    run, _, results = instance_run
    instances = read_instances(read_run(run, None), DatasetCatalog.get("scene"), json.loads(results.read_text()))
    data = instances_data(instances)["confusion"]
    objects = np.concatenate([image.matches.true_classes[~image.matches.ignored] for image in instances.images])
    for threshold, sparse in zip(THRESHOLDS, data["cells"]):
        counts = np.zeros((4, 4), dtype=int)
        for row, column, count in sparse:
            counts[row, column] = count
        np.testing.assert_array_equal(counts[:3].sum(axis=1), np.bincount(objects, minlength=3))
        shown = [
            image.matches.classes[(image.matches.scores >= threshold) & (image.matches.fate >= 0)]
            for image in instances.images
        ]
        np.testing.assert_array_equal(counts[:, :3].sum(axis=0), np.bincount(np.concatenate(shown), minlength=3))
        right, wrong, missed = np.sum([image.matches.counts(threshold) for image in instances.images], axis=0)
        assert counts.diagonal().sum() == right
        assert counts[:, :3].sum() == right + wrong
        assert counts[:3].sum() - right == missed


def test_text_of_the_data_stays_text(instance_run):
    text = evaluation_page(read_run(instance_run[0], None), 2)
    assert text.count("<script") == 2  # the data and the page's own
    assert "<img src=x" not in text and "<script>document" not in text
    assert "\\u003c/script>" in text


def test_nothing_is_loaded_from_anywhere(instance_run):
    text = evaluation_page(read_run(instance_run[0], None), 2)
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in html.unescape(text)
    assert ">a.pth<" in text and "/home/me" not in text


def test_a_changed_data_set_is_said(instance_run):
    run, json_file, _ = instance_run
    assert "was changed" not in evaluation_page(read_run(run, None), 2)
    content = json.loads(json_file.read_text())
    content["annotations"] = content["annotations"][3:]
    json_file.write_text(json.dumps(content))
    assert "was changed" in evaluation_page(read_run(run, None), 2)


def test_keypoints_and_no_predictions(instance_run, tmp_path):
    run, json_file, results = instance_run
    results.write_text("[]")
    text = evaluation_page(read_run(run, None), 2)
    assert page_data(text)["instances"]["calibration"]["all"][9] == [0, 0, 0]
    content = json.loads(json_file.read_text())
    found = [
        {"image_id": a["image_id"], "category_id": 3, "bbox": a["bbox"], "keypoints": a["keypoints"], "score": 0.9}
        for a in content["annotations"] if "keypoints" in a
    ]  # fmt: skip
    results.write_text(json.dumps(found))
    (run / "config.yaml").write_text("TEST: {KEYPOINT_OKS_SIGMAS: [0.1, 0.1, 0.1]}\n")
    text = evaluation_page(read_run(run, None), 2)
    assert set(page_data(text)["instances"]["recall"]) == {"bbox", "keypoints"}
    assert 'class="limb"' in text and 'id="show-pose"' in text


def test_semantic_and_panoptic_numbers_are_the_evaluators(map_run):
    run, numbers = map_run
    files = read_run(run, "maps")
    records = DatasetCatalog.get("maps")
    semantic, panoptic = read_semantic(files, records), read_panoptic(files, records)
    scores = semantic_scores(semantic.tally.counts)
    assert 100 * scores.mean_iou == pytest.approx(numbers["sem_seg"]["mIoU"], rel=1e-12)
    for name, iou in zip(semantic.classes, scores.iou):
        assert 100 * iou == pytest.approx(numbers["sem_seg"][f"IoU-{name}"], rel=1e-12)
    qualities = panoptic_quality((image.matching for image in panoptic.images), list(panoptic.classes))
    for key, name in panoptic.classes.items():
        assert 100 * qualities[key].pq == pytest.approx(numbers["panoptic_seg"][f"PQ-{name}"], rel=1e-12)
    assert 20 < numbers["sem_seg"]["mIoU"] < 99
    text = evaluation_page(files, 2)
    assert f"{numbers['panoptic_seg']['PQ']:.1f}" in text
    [sparse] = page_data(text)["semantic"]["confusion"]["cells"]
    assert sum(count for *_, count in sparse) == semantic.tally.counts.sum()
    row = sum(count for row, _, count in sparse if row == 2)
    assert row == semantic.tally.counts[:, 2].sum()  # rows are the annotated classes


def row_of(text, name):
    """The cells of the semantic class table's row, as text."""
    part = text[text.index(">% of pixels<") :]
    found = next(line for line in part.split("<tr>") if f'class="name">{name}<' in line)
    return re.findall(r'class="num">([^<]*)</td>', found)


def test_classes_have_support_boundaries_and_colours(many_run):
    run, maps = many_run
    text = evaluation_page(read_run(run, None), 2)
    results = json.loads((run / "inference" / "results.json").read_text())["many"]["sem_seg"]
    total = sum((truth != 255).sum() for truth, _ in maps)
    for c in (0, 7, 38):
        images, share, iou, *others = row_of(text, MANY[c])
        assert int(images) == sum((truth == c).any() for truth, _ in maps)
        assert float(share) == pytest.approx(100 * sum((truth == c).sum() for truth, _ in maps) / total, abs=0.005)
        assert float(iou) == pytest.approx(results[f"IoU-{MANY[c]}"], abs=0.005)
        kinds = ("ACC", "BoundaryIoU", "BoundaryF", "min(IoU, B-Iou)")
        assert [float(v) for v in others] == pytest.approx([results[f"{k}-{MANY[c]}"] for k in kinds], abs=0.005)
    assert row_of(text, MANY[39])[:3] == ["0", "0.00", "n/a"]
    semantic = read_semantic(read_run(run, None), DatasetCatalog.get("many"))
    keys = {f"background:rgb{colour}" for colour in semantic.colours}
    # A key in the table and one in the legend, for each class.
    assert sum(text.count(key) for key in keys) == 80
    assert results["mBoundaryF"] == pytest.approx(100 * semantic.tally.boundary_f[1], rel=1e-12)


def test_an_evaluation_without_boundaries_has_their_f1_on_the_page(map_run):
    run, numbers = map_run
    assert "mBoundaryF" not in numbers["sem_seg"]
    files = read_run(run, None)
    values, mean = read_semantic(files, DatasetCatalog.get("maps")).tally.boundary_f
    text = evaluation_page(files, 2)
    assert ">mBoundaryF<" in text and f"{100 * mean:.2f}" in text and 0 < mean < 1
    assert row_of(text, "car")[-1] == f"{100 * values[2]:.2f}"


def test_pixels_without_a_predicted_class_are_in_the_confusion(many_run):
    run, maps = many_run
    text = evaluation_page(read_run(run, None), 2)
    [sparse] = page_data(text)["semantic"]["confusion"]["cells"]
    found = {(row, column): count for row, column, count in sparse}
    for pair in ((7, 7), (7, 30), (7, 40), (12, 39)):
        predicted = pair[1] if pair[1] < 40 else -1
        assert found.get(pair, 0) == sum(((t == pair[0]) & (p == predicted)).sum() for t, p in maps)
    assert sum(found.values()) == sum((t != 255).sum() for t, _ in maps)


def test_the_hardest_images_come_with_what_is_lost(many_run):
    run, maps = many_run
    text = evaluation_page(read_run(run, None), 2)
    assert text.count(">picture</span>") == text.count(">annotated</span>") == text.count(">predicted</span>") == 4
    scores = []
    for truth, predicted in maps:
        present = [c for c in range(40) if (truth == c).any()]
        counted = truth != 255
        iou = [((truth == c) & (predicted == c)).sum() / (((truth == c) | (predicted == c)) & counted).sum()
               for c in present]  # fmt: skip
        scores.append(100 * np.mean(iou))
    worst = int(np.argmin(scores))
    card = next(part for part in text.split("<figure") if f"<b>{worst + 1}.jpg</b>" in part)
    assert 'data-worst="0"' in card and f"mIoU {scores[worst]:.1f}" in card
    truth, predicted = maps[worst]
    pairs = {
        (t, p): ((truth == t) & (predicted == (p if p < 40 else -1))).sum()
        for t in range(40) for p in range(41) if p != t
    }  # fmt: skip
    (true, found), count = max(pairs.items(), key=lambda entry: entry[1])
    share = 100 * count / (truth != 255).sum()
    assert f"{share:.1f} % {MANY[true]} taken for {[*MANY, 'no class'][found]}" in card


def test_outlines_lie_where_they_should_in_large_pictures():
    drawn = [12345.5, 7, 12350, 7, 12350, 1009.5]
    assert outline([drawn]) == "M12345.5 7.0L12350.0 7.0L12350.0 1009.5Z"
    assert outline([[1, 2, 3], drawn, [9, 12, 6, 12, 14, 9, 14]]) == outline([drawn])  # what no evaluation counts


def test_a_missing_prediction_is_named(map_run):
    run, _ = map_run
    (run / "inference" / "maps" / "sem_seg" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        evaluation_page(read_run(run, None), 2)


def test_command_line(instance_run, tmp_path, capsys):
    run, *_ = instance_run
    assert main(["report", str(run)]) == 0
    assert (run / "inference" / "scene" / "report.html").is_file()
    assert main(["report", str(run), "--output", str(tmp_path / "a.html"), "--images", "1"]) == 0
    (run / "inference" / "other").mkdir()
    for words, message in (
        ([str(tmp_path)], "inference"),
        ([str(run)], "--dataset"),
        ([str(run), "--dataset", "third"], "scene"),
        ([str(run), "--dataset", "other"], "--datasets"),
        ([str(run), "--dataset", "scene", "--images", "0"], "--images"),
        ([str(run), "--dataset", "scene", "--output", "/no/such/a.html"], "/no/such"),
        ([str(run), "--dataset", "scene", "--output", str(tmp_path)], "is a folder. Name the file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["report", *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"image_id": 1}]'])
def test_a_damaged_results_file_is_one_message(instance_run, text, capsys):
    run, _, results = instance_run
    results.write_text(text)
    with pytest.raises(SystemExit):
        main(["report", str(run)])
    assert "coco_instances_results.json" in capsys.readouterr().err


def slow_losses(images, threshold):
    """Each image by itself: lists of (class, reason)."""
    found = []
    for image in images:
        m = image.matches
        shown = [d for d in range(len(m.scores)) if m.fate[d] == FALSE and m.scores[d] >= threshold]
        for g, label in enumerate(m.true_classes):
            if m.ignored[g] or m.found_score[g] >= threshold:
                continue
            if any(m.overlaps[d, g] >= 0.5 and m.classes[d] != label for d in shown):
                found.append((label, 0))
            elif any(m.overlaps[d, g] >= 0.1 and m.classes[d] == label for d in shown):
                found.append((label, 1))
            else:
                found.append((label, 2))
        for d in shown:
            if not any(m.overlaps[d, g] >= 0.1 for g in range(len(m.true_classes)) if not m.ignored[g]):
                found.append((m.classes[d], 3))
    return found


def test_what_is_lost_has_one_reason_and_adds_up(instance_run):
    data = page_data(evaluation_page(read_run(instance_run[0], None), 1))["instances"]["losses"]
    run = read_run(instance_run[0], None)
    images = read_instances(run, DatasetCatalog.get("scene"), json.loads(instance_run[2].read_text())).images
    for threshold, counts in zip(data["thresholds"], data["counts"]):
        expected = np.zeros((3, 4), dtype=int)
        for label, reason in slow_losses(images, threshold):
            expected[label, reason] += 1
        np.testing.assert_array_equal(counts, expected)
        missed = sum(int(image.matches.missed(threshold).sum()) for image in images)
        assert np.sum(counts, axis=0)[:3].sum() == missed
    assert sum(data["objects"]) == sum(int((~image.matches.ignored).sum()) for image in images)


def test_the_page_begins_at_the_score_of_the_best_f1_and_names_the_highest(instance_run):
    run = read_run(instance_run[0], None)
    instances = read_instances(run, DatasetCatalog.get("scene"), json.loads(instance_run[2].read_text()))

    def f1(threshold):
        true, false, missed = np.sum([image.matches.counts(threshold) for image in instances.images], axis=0)
        return 2 * true / (2 * true + false + missed)

    best = instances.best_threshold
    assert all(f1(best) >= f1(other) for other in THRESHOLDS)
    highest = max(float(image.matches.scores.max()) for image in instances.images)
    text = evaluation_page(run, 1)
    assert f"best F1 at {best:.2f}, highest score {highest:.2f}" in text
    assert f'value="{best:g}"' in text


def test_next_to_nothing_found_gets_one_hint(instance_run):
    run, _, found = instance_run
    results = json.loads(found.read_text())
    assert "The AP is near 0" not in evaluation_page(read_run(run, None), 1)
    found.write_text(json.dumps([{**one, "bbox": [0.0, 0.0, 2.0, 2.0], "segmentation": ellipse_rle(0, 0, 2, 2)}
                                 for one in results]))  # fmt: skip
    text = evaluation_page(read_run(run, None), 1)
    assert text.count("The AP is near 0") == 1
    assert "The training had 581 steps" in text and "it began with the weights a.pth" in text
    highest = max(one["score"] for one in results)
    assert f"the highest score of a detection is {highest:.2f}" in text
    (run / "config.yaml").write_text("MODEL: {WEIGHTS: '', ROI_HEADS: {SCORE_THRESH_TEST: 0.05}}\n")
    found.write_text("[]")
    text = evaluation_page(read_run(run, None), 1)
    assert "it began with random weights" in text and "no detection reached the score threshold of 0.05" in text
