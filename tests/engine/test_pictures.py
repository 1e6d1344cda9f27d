"""The picture of the first batch shows what the model gets."""

import logging

import cv2
import numpy as np
import pytest
import torch

from densekit.d2.data import Metadata, MetadataCatalog
from densekit.d2.structures import BitMasks, Boxes, Instances, Keypoints
from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer, setup, training_pictures
from densekit.engine.batches import RememberedBatches
from densekit.engine.training_pictures import FirstBatchHook, draw_batch, draw_sample


def metadata(**facts: object) -> Metadata:
    return Metadata(name="drawn", **facts)


def sample(**fields: object) -> dict:
    """A blue picture (in BGR), enlarged when drawn from 64 x 32 to 512 x 256."""
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    image[0] = 200
    return {"image": image, **fields}


def objects(**fields: object) -> Instances:
    found = Instances((32, 64), gt_classes=torch.tensor([1]), gt_boxes=Boxes(torch.tensor([[10.0, 10.0, 30.0, 26.0]])))
    for name, value in fields.items():
        found.set(name, value)
    return found


def test_colours_are_those_of_the_image_whatever_the_format():
    blue = draw_sample(sample(), metadata(), "BGR")
    assert blue.shape == (256, 512, 3)
    np.testing.assert_array_equal(blue[128, 256], [0, 0, 200])
    np.testing.assert_array_equal(draw_sample(sample(), metadata(), "RGB")[128, 256], [200, 0, 0])
    grey = {"image": torch.full((1, 16, 16), 99.6)}
    np.testing.assert_array_equal(draw_sample(grey, metadata(), "L")[8, 8], [99, 99, 99])


def test_objects_are_drawn_where_they_are():
    meta = metadata(thing_classes=["cat", "dog"], keypoint_names=["nose"], keypoint_connection_rules=[])
    plain = draw_sample(sample(), meta, "BGR").astype(int)

    def changed(drawn: np.ndarray, x: float, y: float) -> bool:
        region = np.s_[round(y * 8) - 3 : round(y * 8) + 4, round(x * 8) - 3 : round(x * 8) + 4]
        return bool(np.abs(drawn.astype(int) - plain)[region].max() > 20)

    boxed = draw_sample(sample(instances=objects()), meta, "BGR")
    assert changed(boxed, 30, 20) and not changed(boxed, 26, 22) and not changed(boxed, 50, 20)
    mask = torch.zeros(1, 32, 64, dtype=torch.bool)
    mask[:, 20:26, 22:30] = True
    masked = draw_sample(sample(instances=objects(gt_masks=BitMasks(mask))), meta, "BGR")
    assert changed(masked, 26, 22) and not changed(masked, 50, 20)
    points = Keypoints(torch.tensor([[[50.0, 20.0, 2.0]]]))
    assert changed(draw_sample(sample(instances=objects(gt_keypoints=points)), meta, "BGR"), 50, 20)
    labels = torch.full((32, 64), 255)
    labels[16:, 40:] = 0
    named = metadata(stuff_classes=["road"], stuff_colors=[(255, 0, 0)])
    road = draw_sample(sample(sem_seg=labels), named, "BGR")
    assert changed(road, 45, 28) and not changed(road, 10, 28)
    things = metadata(stuff_classes=["things"], stuff_colors=[(255, 0, 0)], thing_classes=["cat", "dog"])
    assert not changed(draw_sample(sample(sem_seg=labels, instances=objects()), things, "BGR"), 55, 24)


def test_images_stand_side_by_side_in_order():
    batch = [{"image": torch.full((3, 40, 40), float(value))} for value in (10, 60, 110, 160, 210)]
    grid = draw_batch(batch, metadata(), "RGB")
    assert grid.shape == (2 * 516, 3 * 516, 3)
    centres = [grid[row * 516 + 250, column * 516 + 250, 0] for row in (0, 1) for column in (0, 1, 2)]
    assert centres == [10, 60, 110, 160, 210, 255]
    large = draw_batch([{"image": torch.zeros(3, 600, 1024)}], metadata(), "RGB")
    assert large.shape == (304, 516, 3)
    assert draw_batch([{"image": torch.zeros(3, 600, 2)}], metadata(), "RGB").shape[0] == 516
    assert len(draw_batch(batch * 9, metadata(), "RGB")) == 4 * 516


def test_a_run_draws_its_first_batch_once(arguments, tmp_path, monkeypatch):
    drawn, ordinary = [], training_pictures.draw_batch

    def note(batch, meta, image_format):
        drawn.append([record["file_name"] for record in batch])
        return ordinary(batch, meta, image_format)

    monkeypatch.setattr(training_pictures, "draw_batch", note)
    seen = []
    step = Trainer.run_step
    monkeypatch.setattr(Trainer, "run_step", lambda self: (step(self), seen.append(self._batches.last_files)))
    for length, resume in ((2, False), (3, True)):
        trainer = Trainer(setup(arguments("SOLVER.MAX_ITER", length, "DATASETS.TEST", "()", resume=resume)))
        trainer.resume_or_load(resume=resume)
        trainer.train()
    assert drawn == [seen[0]]
    picture = cv2.imread(str(tmp_path / "out" / "first_batch.jpg"))
    assert picture.shape[1] > 500 and picture.std() > 5
    assert any(b"first_batch" in path.read_bytes() for path in (tmp_path / "out").glob("events.out.tfevents*"))


def test_a_batch_that_cannot_be_drawn_is_a_warning(tmp_path, caplog):
    batches = RememberedBatches([[{"file_name": "a.jpg"}]])
    hook = FirstBatchHook(batches, MetadataCatalog.get("drawn_none"), "BGR", str(tmp_path))
    hook.trainer = type("Run", (), {"start_iter": 0})
    hook.before_train()
    with EventStorage(), caplog.at_level(logging.WARNING):
        assert next(iter(batches)) == [{"file_name": "a.jpg"}]
    assert "The first batch cannot be drawn: KeyError" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.fixture(autouse=True)
def forgotten():
    yield
    MetadataCatalog.pop("drawn_none", None)
