"""Exported files: equal to the model at sizes that were not traced, or not written."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms

import densekit
from densekit.cli import main
from densekit.config import load_config
from densekit.d2.structures import Boxes, Instances
from densekit.deploy import parity, targets
from densekit.deploy.exported import ExportedModel
from densekit.deploy.graphs import Placement, graph_of, suppressed
from densekit.engine import run as run_training
from densekit.inference import export as exporting
from densekit.run_options import RunOptions

SMALL = ("INPUT.MIN_SIZE_TEST", 240, "INPUT.MAX_SIZE_TEST", 400)


def write_picture(folder):
    blocks = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(np.kron(blocks, np.ones((20, 20, 1), np.uint8))).save(folder / "picture.png")
    return folder / "picture.png"


@pytest.fixture
def picture(tmp_path):
    return write_picture(tmp_path)


@pytest.fixture(scope="module")
def exported(make_run, tmp_path_factory):
    """A run, the program that was made of it, and what the command said."""
    folder = tmp_path_factory.mktemp("exported")
    run, file = make_run("SemanticSegmentor", *SMALL), folder / "model.pt2"
    words = ["--to", "program", "--output", str(file), "--pictures", str(write_picture(folder)), *map(str, SMALL)]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(run), *words]) == 0
    return run, file, said.getvalue()


def test_a_program_gives_what_the_model_gives(exported, picture):
    run, file, said = exported
    assert "picture.png at 240 x 320: largest difference" in said
    about, _ = targets.opened(targets.read(file), "program")
    assert about["input"]["channels"] == "BGR" and about["kind"] == "sem_seg" and len(about["labels"]) == 54
    predictor = densekit.Predictor(run, device="cpu")
    inputs = predictor.inputs(str(picture))
    with torch.no_grad():
        (expected,), (found,) = predictor.model([inputs]), densekit.load_model(file)([inputs])
    assert parity.difference(found, expected) < 1e-4  # of the largest score


def test_a_file_predicts_like_the_run(exported, picture, tmp_path):
    run, file, _ = exported
    for source, name in ((run, "run"), (file, "file")):
        words = ["--input", str(picture), "--format", "semantic", "--output", str(tmp_path / name)]
        assert main(["predict", str(source), *words]) == 0
    ours, theirs = (np.asarray(Image.open(tmp_path / name / "semantic" / "picture.png")) for name in ("file", "run"))
    assert (ours != theirs).mean() < 1e-3 and len(np.unique(theirs)) > 1
    names = [json.loads((tmp_path / name / "semantic.json").read_text()) for name in ("file", "run")]
    assert names[0] == names[1]


def test_a_file_stands_in_the_models_place(exported, capsys):
    _, file, _ = exported
    predictor = densekit.Predictor(file)
    assert str(file) == predictor.cfg.MODEL.EXPORTED
    small = predictor.cfg.clone()
    small.defrost()
    small.INPUT.MIN_SIZE_TEST = 96
    with pytest.raises(ValueError, match=r"INPUT\.MIN_SIZE_TEST 96: .* this one was made for 240"):
        densekit.Predictor(small)
    with pytest.raises(ValueError, match="has its weights inside and runs on the CPU"):
        densekit.Predictor(file, weights="other.pth")
    with pytest.raises(SystemExit):
        run_training(RunOptions(cfg=predictor.cfg))
    assert f"MODEL.EXPORTED {file} cannot be trained" in capsys.readouterr().err


def test_a_file_that_differs_is_not_written(make_run, picture, tmp_path, monkeypatch):
    run, file = make_run("SemanticSegmentor", *SMALL), tmp_path / "model.pt2"

    def wrong(model):
        graph = graph_of(copy.deepcopy(model))
        graph.model.sem_seg_head.predictor.bias.data[3] += 1
        return graph

    monkeypatch.setattr(exporting, "graph_of", wrong)
    with pytest.raises(ValueError, match=r"not written. On .*picture.png at 240 x 320: the scores differ .* class 3"):
        exporting.export(run, "program", file, pictures=[str(picture)])
    assert not list(tmp_path.glob("*.pt2"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "program", "--output", "a.onnx"], "ends in .pt2"),
        (["--to", "program", "--output", "nowhere/a.pt2"], "The folder of nowhere/a.pt2 does not exist"),
        (["--to", "program", "MODEL.WEIGHTS"], "come in pairs"),
        (["--to", "program", "--pictures", "nothing.jpg"], "No pictures to compare on"),
    ],
)
def test_mistakes_are_named(make_run, words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(make_run("SemanticSegmentor", *SMALL)), *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_pictures_that_are_too_small_are_named_before_the_tracing(make_run, picture, tmp_path):
    opts = ["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128]
    with pytest.raises(ValueError, match="160 x 160 and more"):
        exporting.export(
            make_run("SemanticSegmentor", *SMALL), "program", tmp_path / "a.pt2", pictures=[str(picture)], opts=opts
        )


def test_a_model_without_a_graph_is_refused(make_run):
    with pytest.raises(ValueError, match="ProposalNetwork cannot be exported: there is no graph of tensors for it"):
        graph_of(densekit.load_model(make_run("ProposalNetwork")))


def test_suppression_is_that_of_each_class():
    generator = torch.Generator().manual_seed(0)
    corners = 100 * torch.rand(200, 2, generator=generator) - 20
    boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(200, 2, generator=generator)], 1)
    scores, classes = torch.rand(200, generator=generator), torch.randint(0, 5, (200,), generator=generator)
    assert torch.equal(suppressed(boxes, scores, classes, 0.5), batched_nms(boxes, scores, classes, 0.5))
    assert len(suppressed(boxes[:0], scores[:0], classes[:0], 0.5)) == 0


def test_a_picture_comes_back_from_its_frame():
    placement = Placement(32, (1.0, 2.0, 3.0), least=50)
    picture = torch.arange(3 * 40 * 61.0).view(3, 40, 61)
    image, corner = placement.place(picture)
    assert image.shape == (3, 64, 64) and corner == (0, 5)
    assert torch.equal(placement.take_back({"sem_seg": image}, (40, 61), corner)["sem_seg"], picture)
    assert image[:, 0, 0].tolist() == [1, 2, 3]
    boxes = torch.tensor([[2.0, 7, 70, 20], [0, 0, 9, 4]])  # the second lies in the frame alone
    outputs = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "classes": torch.tensor([1, 2])}
    found = placement.take_back(outputs, (40, 61), corner)
    assert [found[name].tolist() for name in outputs] == [[[2, 2, 61, 15]], [pytest.approx(0.9)], [1]]


def detections(boxes=((0.0, 0, 9, 9), (20, 20, 40, 50)), scores=(0.9, 0.5), classes=(0, 1), cut=0):
    found = Instances((60, 60), pred_boxes=Boxes(torch.tensor(boxes)), scores=torch.tensor(scores))
    found.pred_classes = torch.tensor(classes)
    found.pred_masks = torch.zeros(2, 60, 60, dtype=torch.bool)
    found.pred_masks[0, :9, :9] = found.pred_masks[1, 20 : 50 - cut, 20:40] = True
    return {"instances": found}


def test_detections_are_compared_one_by_one():
    ours = detections()
    assert parity.difference(ours, ours) == 0
    for found, score in zip((scored := [detections() for _ in range(2)]), (0.3, 0.302)):
        found["instances"].mask_scores = torch.tensor([score, 0.1])
    with pytest.raises(ValueError, match="the score of the mask of class 0"):
        parity.difference(*scored)
    for other in (
        detections(boxes=((0.0, 0, 9, 9.5), (20, 20, 40, 50))),
        detections(scores=(0.898, 0.5)),
        detections(classes=(1, 1)),
    ):
        with pytest.raises(ValueError, match=r"the file misses a detection of class [01], score 0\.(9|898)"):
            parity.difference(ours, other)
    with pytest.raises(ValueError, match="the file adds a detection of class 0"):
        parity.difference(ours, {"instances": ours["instances"][:0]})
    with pytest.raises(ValueError, match=r"the mask of class 1, score 0\.5000, box \(20.0, .* by less than 0.95"):
        parity.difference(detections(cut=4), ours)


def test_classes_are_compared():
    one, other = ({"class_scores": torch.tensor([x, 1 - x])} for x in (0.3, 0.3002))
    assert parity.difference(one, one) == 0
    with pytest.raises(ValueError, match=r"classes differ by 2\.0e-04"):
        parity.difference(one, other)


def test_segments_are_compared_by_their_classes():
    ids = torch.ones(10, 10, dtype=torch.int32)
    one, other = ({"panoptic_seg": (ids, [{"id": 1, "isthing": True, "category_id": k}])} for k in (3, 4))
    assert parity.difference(one, one) == 0
    with pytest.raises(ValueError, match=r"100\.0% of the panoptic map"):
        parity.difference(one, other)


def test_a_classifier_is_asked_for_the_size_of_its_cut():
    place = {"multiple": 32, "value": (0.0, 0.0, 0.0)}
    given = {"placement": place, "least_side": 64, "shorter_side": 256, "square_of_its_middle": 224}
    file = ExportedModel({"kind": "classes", "input": given}, lambda inputs: [])
    keys = load_config("").INPUT
    keys.MIN_SIZE_TEST, keys.CUT.SIZE = 32, 64
    file.check_size(keys)
    keys.CUT.SIZE = 32
    with pytest.raises(ValueError, match=r"INPUT.CUT.SIZE 32: .* 64 x 64 and more; this one was made for 224"):
        file.check_size(keys)
