"""Runs on precomputed proposals, whose files are data and no programs on either host."""

import json
import os
import pickle

import numpy as np
import pytest

from densekit.d2.structures import BoxMode
from densekit.data import mapper as mappers
from densekit.engine import run
from densekit.files.proposal_file import add_proposals


class Touch:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def write(path, count, **more):
    """Three boxes for each image, those around its number last, which has the best score."""
    boxes = [
        np.array([[1, 1, 9, 9], [2, 2, 40, 40], [0, 0, 10 + image, 20]], "float32") for image in range(1, count + 1)
    ]
    scores = [np.array([0.1, 0.3, 0.9], "float32")] * count
    content = {"ids": list(range(1, count + 1)), "boxes": boxes, "objectness_logits": scores}
    path.write_bytes(pickle.dumps(content | {"bbox_mode": BoxMode.XYXY_ABS} | more))
    return str(path)


@pytest.fixture
def options(tmp_path):
    def make(train, test):
        files = ["DATASETS.PROPOSAL_FILES_TRAIN", f"('{train}',)", "DATASETS.PROPOSAL_FILES_TEST", f"('{test}',)"]
        model = ["MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
        return [*files, *model, "SOLVER.MAX_ITER", 2, "TEST.VALIDATION_LOSS", True, "INPUT.RANDOM_FLIP", "none"]

    return make


def test_a_run_learns_from_and_is_judged_on_its_proposals(arguments, options, tmp_path, monkeypatch):
    seen = {}
    ordinary = mappers.DatasetMapper.__call__

    def noting(self, record):
        mapped = ordinary(self, record)
        seen[(self.is_train, record["image_id"])] = (mapped["proposals"].proposal_boxes.tensor, record["height"])
        return mapped

    monkeypatch.setattr(mappers.DatasetMapper, "__call__", noting)
    run(arguments(*options(write(tmp_path / "train.pkl", 6), write(tmp_path / "test.pkl", 5))))
    assert {number for train, number in seen if not train} == {1, 2, 3, 4, 5}
    for (_, number), (boxes, height) in seen.items():
        assert boxes[0].tolist() == pytest.approx([0, 0, 10 + number, 20]), (
            number,
            height,
        )  # 64 pixels high: not resized
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in line and "validation_loss" in line for line in lines)


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_file_that_would_run_something_is_refused_by_name(arguments, options, tmp_path, capsys, where):
    victim = tmp_path / "victim"
    evil = {where: {"extra": Touch(victim)}}
    files = [
        write(tmp_path / f"{name}.pkl", count, **evil.get(name, {})) for name, count in (("train", 6), ("test", 5))
    ]
    with pytest.raises(SystemExit) as end:
        run(arguments(*options(*files)))
    assert end.value.code == 2 and not victim.exists()
    said = capsys.readouterr().err
    assert f"error: Proposal file {tmp_path}/{where}.pkl cannot be read: it asks for" in said and "mkdir" in said


def test_numbers_that_make_no_sense_are_named_before_the_training(arguments, options, tmp_path, capsys):
    train, scores = write(tmp_path / "train.pkl", 6), [np.array([0.1, 0.3, 0.9], "float32")] * 5
    nan = [*scores[:2], np.array([0.1, np.nan, 0.9], "float32"), *scores[:2]]
    far = [np.array([[1, 1, 9, 9], [200, 2, 240, 40], [0, 0, 9, 9]], "float32")] * 5
    for more, message in (
        ({"objectness_logits": nan}, "image id 3: a score is not finite"),
        ({"boxes": far}, "1 of 3 boxes lie beside the picture of 80 x 64 pixels. Is it the file of another data set?"),
        ({"boxes": [box[:2] for box in far]}, "boxes of shape (2, 4) and scores of shape (3,) do not fit"),
    ):
        with pytest.raises(SystemExit) as end:
            run(arguments(*options(train, write(tmp_path / "odd.pkl", 5, **more))))
        assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_order_of_a_file_does_not_matter(tmp_path):
    path = write(tmp_path / "some.pkl", 4)
    found = pickle.loads((tmp_path / "some.pkl").read_bytes())
    turned = {key: value[::-1] if isinstance(value, list) else value for key, value in found.items()}
    (tmp_path / "turned.pkl").write_bytes(pickle.dumps(turned))
    for name in (path, str(tmp_path / "turned.pkl")):
        records = [{"image_id": 3, "width": 80, "height": 64}]
        with open(name, "rb") as file:
            add_proposals(records, file, name, BoxMode)
        assert records[0]["proposal_boxes"][0].tolist() == [0, 0, 13, 20]


def test_files_that_do_not_fit_end_before_the_training(arguments, options, tmp_path, capsys):
    train, few = write(tmp_path / "train.pkl", 6), write(tmp_path / "few.pkl", 4)
    for files, message in (
        ([train, few], "few.pkl has no proposals for image id 5"),
        ([train, tmp_path / "none.pkl"], "none.pkl"),
        ([train, f"{few}','{few}"], "there are 2 files of proposals for the 1 data sets tiny_val"),
    ):
        with pytest.raises(SystemExit) as end:
            run(arguments(*options(*files)))
        assert end.value.code == 2 and message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.pth"))
