"""Sharded predictions without a cluster: lists and URLs, shards, what a rerun does again, shares of the cores."""

import json
import logging
import os
import sys

import fsspec
import pytest

from densekit.engine.errors import DataError
from densekit.inference.inputs import pictures_of_words
from densekit.inference.mass import batches_of, claim_store, collect
from densekit.inference.predicting import open_batches
from densekit.inference.ray_engine import share_cores
from densekit.inference.reading import PictureReader
from densekit.inference.shards import Answer, JoinedShards, Shards, digest_of, present_stamp
from densekit.inference.store import Store


@pytest.fixture
def bucket():
    """An empty place of fsspec's file system in memory."""
    files = fsspec.filesystem("memory")
    yield "memory://bucket"
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(11):
        (folder / f"{number:02d}.png").write_bytes(bytes(number + 1))
    return pictures_of_words([str(folder)], tmp_path / "out")


def answer(picture, *, problem=""):
    mark = present_stamp(picture.path)
    mask = {"size": [4, 5], "counts": "04"}
    found = {"image_id": picture.image_id, "category_id": 3, "bbox": [0.1, 2.0, 1 / 3, 0.0], "score": 0.7}
    line = {
        "index": picture.index, "image_id": picture.image_id, "file_name": picture.name, "stem": picture.stem,
        "height": 4, "width": 5, "instances": [{**found, "segmentation": mask}] * (picture.index % 3),
    }  # fmt: skip
    if not line["instances"]:
        line["highest_score"] = 0.25
    return Answer(picture.index, mark, None if problem else {**line, "stamp": mark}, problem)


def answered(pictures, shards, numbers, broken=()):
    """Answers in an order that no engine promises: batches from the last to the first."""
    for batch in reversed(batches_of(shards, numbers)):
        yield [answer(pictures[k], problem=f"{k} is broken" if k in broken else "") for k in batch]


def file_names(pictures):
    return [picture.name for picture in pictures]


def test_a_list_keeps_its_order_and_its_folder(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.txt").write_text(
        f"\ufeffb/2.jpg\n\n{tmp_path}/a/1.jpg\nb/2.jpg\nmemory://bucket/3.jpg\n"
    )
    found = pictures_of_words([str(tmp_path / "lists" / "some.txt")], tmp_path / "out")
    places = [str(tmp_path / "lists" / "b/2.jpg"), f"{tmp_path}/a/1.jpg", "memory://bucket/3.jpg"]
    assert [picture.path for picture in found] == places
    assert [picture.image_id for picture in found] == [1, 2, 3] and len({picture.stem for picture in found}) == 3
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.txt: the list is empty"):
        pictures_of_words([str(tmp_path / "empty.txt")], tmp_path / "out")


def test_a_parquet_list_brings_its_ids(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image_id": [70, 8], "size": [1, 2], "path": ["y/1.jpg", "x/1.jpg"]})
    parquet.write_table(table, tmp_path / "list.parquet")
    found = pictures_of_words([str(tmp_path / "list.parquet")], tmp_path / "out")
    assert [(p.path, p.name, p.image_id) for p in found] == [
        (str(tmp_path / "y/1.jpg"), "y/1.jpg", 70),
        (str(tmp_path / "x/1.jpg"), "x/1.jpg", 8),
    ]
    parquet.write_table(table.drop_columns("path"), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match="no column path; its columns are image_id, size"):
        pictures_of_words([str(tmp_path / "list.parquet")], tmp_path / "out")
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"list\.parquet is no Parquet file"):
        pictures_of_words([str(tmp_path / "list.parquet")], tmp_path / "out")


def test_pictures_behind_urls_have_the_pixels_of_files(photos, tmp_path, bucket):
    files = fsspec.filesystem("memory")
    files.put(str(photos), "/bucket/photos", recursive=True)
    files.pipe_file("/bucket/photos/notes.csv", b"")
    here = pictures_of_words([str(photos)], tmp_path / "out")
    reader = PictureReader("BGR")
    for word in (f"{bucket}/photos", f"{bucket}/photos/", f"{bucket}/photos/**/*.[jp][pn]g"):
        there = pictures_of_words([word], tmp_path / "out")
        assert file_names(there) == file_names(here)
        assert all((reader.read(one) == reader.read(two)).all() for one, two in zip(here, there))
    with pytest.raises(FileNotFoundError, match="memory://bucket/none names no file"):
        pictures_of_words([f"{bucket}/none"], tmp_path / "out")
    with pytest.raises(ValueError, match="nosuch://x cannot be opened"):
        pictures_of_words(["nosuch://x"], tmp_path / "out")


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_store_never_shows_half_a_file(place, tmp_path, bucket, monkeypatch):
    store = Store(bucket if place == "memory" else str(tmp_path / "out"))
    assert store.names("shards") == set()
    store.write("shards/0", b"old")
    store.write("shards/1", b"")
    with monkeypatch.context() as patch:  # the disk is full, or the connection breaks
        target = (fsspec.filesystem("memory"), "mv") if place == "memory" else (os, "fsync")
        patch.setattr(*target, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            store.write("shards/0", b"new")
    assert store.read("shards/0") == b"old" and store.names("shards") == {"0", "1"}
    store.write("shards/0", b"new")
    assert store.read("shards/0") == b"new"
    store.remove("shards/0")
    store.remove("shards/0")
    assert store.names("shards") == {"1"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("place", ["folder", "memory"])
def test_shards_hold_every_line_once_whatever_the_order(kind, place, pictures, tmp_path, bucket):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    shards = Shards(Store(bucket if place == "memory" else str(tmp_path / "out")), pictures, 2, 3, kind)
    assert [list(shards.members(k)) for k in range(shards.count)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [list(batch) for batch in batches_of(shards, [0, 1, 2])] == open_batches(11, 2, set())
    collect(answered(pictures, shards, [0, 1, 2], broken={5}), shards, [0, 1, 2], strict=False)
    assert shards.unfinished() == [] and shards.problems() == {5: "5 is broken"}
    expected = [json.loads(json.dumps(answer(picture).line)) for picture in pictures if picture.index != 5]
    assert [line for number in range(3) for line in shards.lines(number)] == expected
    (tmp_path / "joined").mkdir()
    joined = JoinedShards(shards, tmp_path / "joined").join().read_text()
    assert joined == "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in expected)


def test_a_rerun_does_what_is_missing_or_has_changed(pictures, tmp_path):
    shards = Shards(Store(str(tmp_path / "out")), pictures, 2, 4, "jsonl")
    some = answered(pictures, shards, [0, 1, 2])
    next(some)
    next(some)
    collect([*some][2:], shards, [], strict=False)  # killed: the batches of one shard were complete
    assert shards.unfinished() == [1, 2]
    collect(answered(pictures, shards, [1, 2], broken={9}), shards, [1, 2], strict=False)
    assert shards.unfinished() == []
    (tmp_path / "out" / "manifest" / "000000.json").unlink()  # killed between a shard and its mark
    assert shards.unfinished() == [0]
    collect(answered(pictures, shards, [0]), shards, [0], strict=False)
    with open(pictures[9].path, "ab") as file:  # repaired
        file.write(b"more")
    assert shards.unfinished() == [2]
    os.unlink(pictures[6].path)
    assert shards.unfinished() == [1, 2]


def test_answers_that_are_lost_or_doubled_are_never_written(pictures, tmp_path):
    shards = Shards(Store(str(tmp_path / "out")), pictures, 2, 4, "jsonl")
    batches = list(answered(pictures, shards, [0]))
    with pytest.raises(DataError, match="Answers for 1 shards are incomplete"):
        collect(batches[1:], shards, [0], strict=False)
    with pytest.raises(ValueError, match="Shard 0 has 4 answers for 4 pictures"):
        collect([batches[0], batches[0]], shards, [0], strict=False)
    with pytest.raises(DataError, match=r"3 is broken\. Without --strict"):
        collect(answered(pictures, shards, [0], broken={3}), shards, [0], strict=True)
    assert shards.unfinished() == [0, 1, 2]


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_place_takes_the_same_settings_or_says_the_difference(place, tmp_path, bucket):
    store = Store(bucket if place == "memory" else str(tmp_path / "out"))
    claim_store(store, {"weights": "1", "shard_size": 4}, overwrite=False)
    claim_store(store, {"weights": "1", "shard_size": 4}, overwrite=False)
    store.write("shards/000000.jsonl", b"")
    with pytest.raises(ValueError, match="shard_size: 4 there, 8 now"):
        claim_store(store, {"weights": "1", "shard_size": 8}, overwrite=False)
    claim_store(store, {"weights": "1", "shard_size": 8}, overwrite=True)
    assert store.names("shards") == set()
    store.remove("settings.json")
    store.write("else.txt", b"")
    with pytest.raises(ValueError, match="is not empty and holds no predictions"):
        claim_store(store, {}, overwrite=False)


def test_the_sum_of_an_input_knows_order_and_ids(pictures):
    assert digest_of(pictures) == digest_of(list(pictures)) != digest_of(pictures[::-1])


@pytest.mark.parametrize("cores", [[2], [1], [16, 4], [64] * 3])
@pytest.mark.parametrize("actors", [1, 2, 3, 8])
@pytest.mark.parametrize("decoders", [None, 1, 5])
def test_models_and_decoders_fit_beside_each_other(cores, actors, decoders):
    pool = share_cores(cores, actors, decoders)
    assert pool.actors == actors and pool.cpus > 0 and pool.decoder_cpus > 0 and pool.threads >= 1
    room = [int(one / pool.cpus + 1e-6) for one in cores]
    assert sum(room) >= actors  # else some would wait for ever
    # Wherever the models go, one machine at least has room for a decoder.
    most = [one - min(places, actors) * pool.cpus for one, places in zip(cores, room)]
    assert max(most) >= pool.decoder_cpus - 1e-6


def test_refusals_name_what_to_do(make_run, photos, tmp_path, capsys, monkeypatch):
    from densekit.cli import main

    run = make_run("GeneralizedRCNN")
    with pytest.raises(SystemExit):
        main(["predict", str(run), "--input", str(photos), "--address", "auto"])
    assert "add --engine ray" in capsys.readouterr().err
    words = ["predict", str(run), "--input", str(photos), "--engine", "ray", "--output", "memory://bucket/out"]
    with pytest.raises(SystemExit):
        main([*words, "--format", "coco"])
    assert "need a folder that all machines share" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main([*words[:-1], str(tmp_path / "out")])
    assert "pip install 'densekit[ray]'" in capsys.readouterr().err
    logging.getLogger("densekit").handlers.clear()
