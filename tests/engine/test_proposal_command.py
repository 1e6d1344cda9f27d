"""``densekit proposals``: the same file twice and after a kill, read back by a run; recall against counting by hand."""

import json
import pickle

import cv2
import numpy as np
import pytest

from densekit.cli import main
from densekit.d2.data import DatasetCatalog
from densekit.data.ground_truth import GroundTruth
from densekit.engine import run
from densekit.evaluation.proposals import proposal_recall
from densekit.inference.proposal_run import collect_proposals
from densekit.ops.object_search import search_objects

needs_contrib = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib")


def scene():
    """A grey picture with two coloured rectangles."""
    random = np.random.default_rng(0)
    picture = random.integers(90, 110, (120, 160, 3), dtype=np.uint8)
    picture[20:70, 30:90], picture[60:110, 100:150] = (30, 40, 220), (220, 160, 30)
    return picture, np.array([[30, 20, 90, 70], [100, 60, 150, 110]], dtype=float)


def overlap(boxes, one):
    low, high = np.maximum(boxes[:, :2], one[:2]), np.minimum(boxes[:, 2:], one[2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (one[2:] - one[:2]).prod() - shared)


@needs_contrib
@pytest.mark.parametrize("method", ["selective-search", "edge-boxes"])
@pytest.mark.parametrize("width", [500, 120])
def test_a_search_finds_objects_and_finds_them_again(method, width):
    picture, objects = scene()
    options = {"count": 500, "width": width, "least": 10}
    boxes, scores = search_objects(picture, method, **options)
    again = [search_objects(picture, method, **options) for _ in range(3)]
    assert all(np.array_equal(boxes, b) and np.array_equal(scores, s) for b, s in again)
    assert (np.diff(scores) <= 0).all() and len(boxes) <= 500
    assert ((boxes[:, 2:] - boxes[:, :2]).min() + 1e-3) >= 10 * max(1.0, 160 / width)
    assert (boxes >= 0).all() and (boxes <= [160.01, 120.01] * 2).all()
    assert all(overlap(boxes, one).max() > 0.7 for one in objects)
    few, _ = search_objects(picture, method, count=3, width=width, least=10)
    assert np.array_equal(few, boxes[:3])


@needs_contrib
def test_the_file_feeds_a_run(tiny_root, arguments, tmp_path, capsys):
    files = {}
    for split in ("train", "val"):
        files[split] = tmp_path / f"{split}.pkl"
        words = ["proposals", f"tiny_{split}", "--least", "5", "--count", "50", "--workers", "2"]
        assert main([*words, "--output", str(files[split])]) == 0
        before = files[split].read_bytes()
        assert main([*words, "--output", str(files[split])]) == 0
        assert files[split].read_bytes() == before and not files[split].with_name(f"{split}.pkl.parts").exists()
    assert "Objects covered" in capsys.readouterr().out and (tmp_path / "val.png").stat().st_size
    model = ["MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    named = [f"DATASETS.PROPOSAL_FILES_{key}" for key in ("TRAIN", "TEST")]
    run(arguments(named[0], f"('{files['train']}',)", named[1], f"('{files['val']}',)", *model, "SOLVER.MAX_ITER", 2))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in line for line in lines)


def test_an_rpn_is_asked(arguments, tmp_path, tiny_root):
    run(arguments("SOLVER.MAX_ITER", 2))
    output = tmp_path / "rpn.pkl"
    words = ["proposals", "tiny_val", "--method", "rpn", "--run", str(tmp_path / "out"), "--count", "10"]
    assert main([*words, "--output", str(output)]) == 0
    found = pickle.loads(output.read_bytes())
    assert found["ids"] == [record["image_id"] for record in DatasetCatalog.get("tiny_val")]
    for boxes, scores in zip(found["boxes"], found["objectness_logits"]):
        assert 0 < len(boxes) == len(scores) <= 10 and (np.diff(scores) <= 0).all()
        assert (boxes >= 0).all() and (boxes <= [80, 64, 80, 64]).all()


def test_a_run_that_was_ended_goes_on(tiny_root, tmp_path):
    records, asked = DatasetCatalog.get("tiny_train"), []

    def propose(record, fails_at=None):
        if record["image_id"] == fails_at:
            raise KeyboardInterrupt
        asked.append(record["image_id"])
        return np.full((2, 4), record["image_id"], np.float32), np.array([1, 0], np.float32)

    whole, broken = tmp_path / "whole.pkl", tmp_path / "broken.pkl"
    collect_proposals(records, propose, whole, settings={"a": 1}, workers=2)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        collect_proposals(records, lambda r: propose(r, 4), broken, settings={"a": 1}, workers=1)
    first = set(asked)
    assert first and not broken.exists()
    with pytest.raises(ValueError, match="unfinished proposals"):
        collect_proposals(records, propose, broken, settings={"a": 2}, workers=1)
    asked.clear()
    collect_proposals(records, propose, broken, settings={"a": 1}, workers=2)
    assert set(asked) == {r["image_id"] for r in records} - first
    assert broken.read_bytes() == whole.read_bytes()


def test_recall_is_counted_as_by_hand(tiny_root):
    truth, records = GroundTruth.of("tiny_val"), DatasetCatalog.get("tiny_val")
    predictions, best = [], []
    for number, record in enumerate(records):
        x, y, w, h = record["annotations"][0]["bbox"]
        boxes = np.array([[0, 0, 3, 3], [x, y, x + w, y + h * (0.98 - number / 10)]], np.float32)
        predictions.append({"image_id": record["image_id"], "proposals": (boxes, np.array([1, 0], np.float32))})
        best.append(0.98 - number / 10)
    predictions[0]["proposals"] = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    best[0] = 0  # an image without proposals misses its object
    found = proposal_recall(truth, predictions, (1, 2))
    assert not found[1].any()
    for k, value in enumerate(found[2]):
        assert value == pytest.approx(100 * sum(b >= 0.5 + 0.05 * k for b in best) / len(best))


@pytest.mark.parametrize(
    "words, message",
    [
        (["tiny_val", "--method", "rpn"], "needs --run"),
        (["tiny_val", "--run", "somewhere"], "no other method takes it"),
        (["tiny_val", "--count", "0"], "--count 0"),
        (["no_such_data"], "no_such_data"),
        (["tiny_val", "--method", "rpn", "--run", "nowhere"], "nowhere has no config.yaml"),
    ],
)
def test_mistakes_end_in_one_line(tiny_root, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["proposals", *words])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_plain_opencv_is_told_what_to_install(tiny_root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    with pytest.raises(SystemExit):
        main(["proposals", "tiny_val"])
    assert "pip install 'densekit[proposals]'" in capsys.readouterr().err
