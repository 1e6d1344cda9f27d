"""Pictures of predictions during a training show what the model says, and change nothing."""

import logging

import cv2
import numpy as np
import pytest
import torch

from densekit.d2.data import Metadata
from densekit.d2.structures import Boxes, Instances
from densekit.engine import Trainer, setup
from densekit.engine.prediction_pictures import FOLDER, draw_prediction

GREY = np.full((32, 64, 3), 128, np.uint8)


def found(scores: list[float]) -> dict:
    instances = Instances((32, 64))
    instances.pred_boxes = Boxes(torch.tensor([[6.0 + 20 * k, 4.0, 18.0 + 20 * k, 28.0] for k in range(len(scores))]))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.int64)
    return {"instances": instances}


def touched(picture: np.ndarray) -> list[bool]:
    """Tells which of three columns of a drawn picture differ from the grey below."""
    width = picture.shape[1] // 64
    return [bool((picture[:, (6 + 20 * k) * width : (18 + 20 * k) * width] != 128).any()) for k in range(3)]


@pytest.mark.parametrize(
    ("scores", "drawn"),
    [([0.9, 0.2, 0.1], [True, False, False]), ([0.3, 0.4, 0.1], [True, True, True])],
)
def test_sure_objects_are_drawn_and_else_the_best(scores, drawn):
    facts = Metadata(name="drawn", thing_classes=["x"])
    assert touched(draw_prediction(GREY, found(scores), facts)) == drawn


def test_labels_and_segments_are_drawn():
    facts = Metadata(name="drawn", stuff_classes=["sky", "road"], thing_classes=["x"])
    labels = torch.zeros(2, 32, 64)
    labels[1, 16:] = 1
    for output in (
        {"sem_seg": labels},
        {"panoptic_seg": (1 + labels[1].int(), [{"id": 1 + k, "isthing": False, "category_id": k} for k in (0, 1)])},
    ):
        picture = draw_prediction(GREY, output, facts).astype(float)
        top, bottom = picture[: len(picture) // 3].mean((0, 1)), picture[-len(picture) // 3 :].mean((0, 1))
        assert np.abs(top - bottom).max() > 10
    with pytest.raises(ValueError, match="class_scores cannot be drawn"):
        draw_prediction(GREY, {"class_scores": torch.zeros(2)}, facts)


def trained(arguments, *opts):
    trainer = Trainer(setup(arguments(*opts)))
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer.model.state_dict()


def test_a_training_with_pictures_learns_the_same(arguments, tmp_path):
    fixed = ("DATASETS.TEST", "('tiny_val',)", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0)
    plain = trained(arguments, *fixed, "OUTPUT_DIR", str(tmp_path / "plain"))
    drawn = trained(arguments, *fixed, "TEST.PICTURES_PERIOD", 2, "MODEL_EMA.ENABLED", True)
    for name, value in plain.items():
        assert torch.equal(value, drawn[name]), name
    pictures = sorted((tmp_path / "out" / FOLDER).glob("*.jpg"))
    assert [path.name for path in pictures] == ["0000002.jpg", "0000004.jpg"]
    assert cv2.imread(str(pictures[0])).std() > 5
    assert not (tmp_path / "plain" / FOLDER).exists()


def test_what_cannot_be_drawn_is_one_warning(arguments, tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError("no such picture")

    monkeypatch.setattr("densekit.engine.prediction_pictures.read_picture", refuse)
    with caplog.at_level(logging.WARNING):
        trained(arguments, "TEST.PICTURES_PERIOD", 1)
    assert caplog.text.count("Predictions cannot be drawn (TEST.PICTURES_PERIOD): OSError: no such picture") == 1
