"""Identities of objects through frames."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from densekit.engine.errors import user_errors
from densekit.formats import mot
from densekit.formats.classes import Classes
from densekit.inference import tracking
from densekit.inference.inputs import Picture
from densekit.inference.journal import JOINED, JoinedLines

FRAMES = 14


def result(category, x, y, score=0.9):
    return {"image_id": 1, "category_id": category, "bbox": [x, y, 30.0, 20.0], "score": score}


def scene(frame):
    """Two cars that pass each other in different rows, and a person who is there from the fifth frame on."""
    found = [result(1, 10 + 6.0 * frame, 10), result(1, 120 - 6.0 * frame, 60)]
    if frame >= 5:
        found.append(result(2, 12 + 6.0 * frame, 11))  # over the first car, but of another class
    return found if frame % 2 else found[::-1]


@pytest.fixture
def frames(tmp_path):
    """A folder with the lines of a video, and its pictures."""
    names = [f"clip/{number + 1:06d}" for number in range(FRAMES)]
    pictures = [Picture(n, n + 1, f"clip/{n:06d}.jpg", f"{name}.jpg", name) for n, name in enumerate(names)]
    lines = [
        {"index": n, "image_id": n + 1, "file_name": f"{name}.jpg", "stem": name, "instances": scene(n)}
        for n, name in enumerate(names)
    ]
    (tmp_path / JOINED).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path, pictures


@pytest.mark.parametrize("name", ["sort", "bytetrack", "ocsort"])
def test_an_object_keeps_its_identity_and_no_two_share_one(name, frames):
    pytest.importorskip("trackers")
    folder, pictures = frames
    tracking.track(folder, pictures, name)
    owners: dict[int, set] = {}
    for number, line in enumerate(JoinedLines(folder / JOINED)):
        assert len(line["instances"]) == len(scene(number))
        for one in line["instances"]:
            if "track_id" in one:
                owners.setdefault(one["track_id"], set()).add((one["category_id"], one["bbox"][1]))
    assert sorted(len(seen) for seen in owners.values()) == [1, 1, 1]
    assert {key for seen in owners.values() for key in seen} == {(1, 10), (1, 60), (2, 11)}


def test_tracking_again_gives_the_same(frames):
    pytest.importorskip("trackers")
    folder, pictures = frames
    tracking.track(folder, pictures, "bytetrack")
    first = (folder / JOINED).read_bytes()
    tracking.track(folder, pictures, "bytetrack")
    assert (folder / JOINED).read_bytes() == first


def fake(monkeypatch):
    """Trackers that number detections by their row of pixels, so that the wiring is tested without the library."""

    class ByRow:
        def __init__(self, frame_rate):
            self.rate = frame_rate

        def update(self, detections, frame=None):
            rows = detections.xyxy[:, 1].astype(int)
            return SimpleNamespace(tracker_id=np.where(rows < 50, rows, -1), data=detections.data)

    libraries = {
        "trackers": SimpleNamespace(**dict.fromkeys(tracking.TRACKERS.values(), ByRow)),
        "supervision": SimpleNamespace(Detections=SimpleNamespace),
    }
    monkeypatch.setattr(tracking, "_library", libraries.__getitem__)


def test_ids_count_from_one_and_belong_to_a_class(frames, monkeypatch):
    fake(monkeypatch)
    folder, pictures = frames
    tracking.track(folder, pictures, "sort")
    lines = list(JoinedLines(folder / JOINED))
    by_row = [{one["bbox"][1]: one.get("track_id") for one in line["instances"]} for line in lines]
    assert by_row[0] == {10: 1, 60: None} and by_row[6] == {10: 1, 60: None, 11: 2}


def test_the_text_of_the_mot_challenges(frames, monkeypatch):
    fake(monkeypatch)
    folder, pictures = frames
    tracking.track(folder, pictures, "sort")
    classes = Classes(things=[(1, "car"), (2, "tall person")], labels=[])
    mot.write_tracks(folder, JoinedLines(folder / JOINED), classes)
    cars = (folder / "mot" / "clip.car.txt").read_text().splitlines()
    assert len(cars) == FRAMES
    assert cars[1] == "2,1,16.00,10.00,30.00,20.00,0.9000,-1,-1,-1"
    people = (folder / "mot" / "clip.tall_person.txt").read_text().splitlines()
    assert people[0].startswith("6,2,42.00,11.00")


def test_unknown_and_missing_trackers(monkeypatch, capsys):
    with pytest.raises(ValueError, match="--track best: the trackers are sort, bytetrack"):
        tracking.check_tracker("best")
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    with pytest.raises(SystemExit) as stop, user_errors():
        tracking.check_tracker("sort")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: --track needs the library trackers: pip install")
