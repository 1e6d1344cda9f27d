"""Catalogues, wrappers of data sets and loaders."""

import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.d2.config import get_cfg
from densekit.d2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from densekit.d2.data.common import AspectRatioGroupedDataset, ToIterableDataset
from densekit.d2.data.samplers import TrainingSampler
from densekit.d2.structures import BoxMode


def test_catalogue_loads_by_name():
    DatasetCatalog.register("mine_a", lambda: [1, 2])
    assert "mine_a" in DatasetCatalog.list() and DatasetCatalog.get("mine_a") == [1, 2]
    with pytest.raises((ValueError, AssertionError), match="mine_a"):
        DatasetCatalog.register("mine_a", list)
    with pytest.raises(KeyError, match="mine_a"):  # the nearest name
        DatasetCatalog.get("mine_aa")
    DatasetCatalog.remove("mine_a")
    assert "mine_a" not in DatasetCatalog


def test_metadata_does_not_change_in_silence():
    metadata = MetadataCatalog.get("mine_b")
    metadata.thing_classes = ["cat"]
    metadata.thing_classes = ["cat"]
    assert MetadataCatalog.get("mine_b") is metadata
    with pytest.raises((ValueError, AssertionError), match="thing_classes"):
        metadata.thing_classes = ["dog"]
    assert metadata.get("nothing", 3) == 3 and metadata.as_dict() == {"name": "mine_b", "thing_classes": ["cat"]}
    with pytest.raises(AttributeError, match="mine_b"):
        _ = metadata.stuff_classes
    assert metadata.set(a=1).a == 1
    assert copy.deepcopy(metadata).as_dict() == metadata.as_dict()


def test_list_data_set_gives_independent_items():
    items = [{"a": [i], "array": np.arange(i)} for i in range(5)]
    for options in ({}, {"serialize": False}):
        dataset = DatasetFromList(items, **options)
        assert len(dataset) == 5 and dataset[3]["a"] == [3]
        np.testing.assert_array_equal(dataset[4]["array"], np.arange(4))
        dataset[3]["a"].append(7)
        assert dataset[3]["a"] == [3] and items[3]["a"] == [3]
    assert DatasetFromList(items, copy=False, serialize=False)[0] is items[0]


def test_packed_list_is_compact_and_shared():
    """The items lie in one tensor, whatever their number, and spawned processes get it through shared memory."""
    from densekit.runtime.data import DatasetFromList as Packed

    packed = Packed([{"i": i} for i in range(100)])._items
    assert packed._bytes.dtype == torch.uint8 and packed[-1] == {"i": 99}
    with pytest.raises(IndexError):
        packed[100]
    assert len(Packed([])) == 0


def test_map_tries_another_index_where_the_mapper_refuses():
    def odd_only(value):
        return value if value % 2 else None

    mapped = MapDataset(DatasetFromList(list(range(10))), odd_only)
    assert mapped[3] == 3 and len(mapped) == 10
    assert all(mapped[i] % 2 for i in range(10))


def test_map_ends_where_nothing_is_left():
    from densekit.runtime.data import DatasetFromList, MapDataset

    with pytest.raises(RuntimeError, match="all 4 elements"):
        MapDataset(DatasetFromList([1, 2, 3, 4]), lambda value: None)[0]


def test_map_of_a_stream_is_a_stream():
    stream = ToIterableDataset(DatasetFromList(list(range(6))), TrainingSampler(6, shuffle=False))
    mapped = MapDataset(stream, lambda value: value * 10 if value % 2 else None)
    assert isinstance(mapped, torch.utils.data.IterableDataset)
    assert list(itertools.islice(mapped, 4)) == [10, 30, 50, 10]


def test_aspect_groups():
    shapes = [(4, 3), (3, 4), (5, 2), (2, 2), (9, 1)]
    grouped = AspectRatioGroupedDataset([{"width": w, "height": h} for w, h in shapes], 2)
    batches = [[(d["width"], d["height"]) for d in batch] for batch in grouped]
    assert batches == [[(4, 3), (5, 2)], [(3, 4), (2, 2)]]
    first = next(iter(grouped))  # what was left over fills the next batch
    assert [(d["width"], d["height"]) for d in first] == [(9, 1), (4, 3)]


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return {"i": i, "width": 1 + i % 2, "height": 1, "draw": np.random.rand()}


@pytest.mark.parametrize("grouping", [False, True])
def test_workers_share_the_stream_out(grouping):
    sampler = TrainingSampler(12, shuffle=False)
    loader = build_batch_data_loader(
        Numbers(), sampler, 2, aspect_ratio_grouping=grouping, num_workers=2, multiprocessing_context="fork"
    )
    batches = list(itertools.islice(loader, 12))
    seen = [d["i"] for batch in batches for d in batch]
    assert set(seen) == set(range(12)) and all(len(batch) == 2 for batch in batches)
    draws = [d["draw"] for batch in batches for d in batch]
    assert len(set(draws)) == len(draws)  # workers draw differently
    if grouping:
        assert all(len({d["width"] for d in batch}) == 1 for batch in batches)


@pytest.fixture
def tiny(tmp_path):
    """Five records: wide and high, with objects, with a crowd only, and empty."""
    annotations = [[0], [0, 1], "crowd", [], [1]]
    records = []
    for i, content in enumerate(annotations):
        w, h = (40, 30) if i % 2 else (30, 40)
        Image.fromarray(np.full((h, w, 3), i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
        box = {"bbox": [4.0, 5.0, 10.0, 12.0], "bbox_mode": BoxMode.XYWH_ABS}
        objects = (
            [{**box, "category_id": 0, "iscrowd": 1}]
            if content == "crowd"
            else [{**box, "category_id": c, "keypoints": [5.0, 6.0, 2.0, 0.0, 0.0, 0.0]} for c in content]
        )
        file = str(tmp_path / f"{i}.png")
        records.append({"file_name": file, "width": w, "height": h, "image_id": i, "annotations": objects})
    DatasetCatalog.register("tiny_a", lambda: copy.deepcopy(records))
    MetadataCatalog.get("tiny_a").thing_classes = ["cat", "dog"]
    return records


def ids(records):
    return [record["image_id"] for record in records]


def test_records_are_filtered(tiny):
    assert ids(get_detection_dataset_dicts("tiny_a")) == [0, 1, 4]
    assert ids(get_detection_dataset_dicts(["tiny_a"], filter_empty=False)) == [0, 1, 2, 3, 4]
    assert ids(get_detection_dataset_dicts("tiny_a", min_keypoints=2)) == [1]


def test_joined_data_sets_must_agree(tiny):
    DatasetCatalog.register("tiny_b", lambda: copy.deepcopy(tiny[:2]))
    MetadataCatalog.get("tiny_b").thing_classes = ["cat", "dog"]
    assert ids(get_detection_dataset_dicts(["tiny_a", "tiny_b"])) == [0, 1, 4, 0, 1]
    DatasetCatalog.register("tiny_c", lambda: copy.deepcopy(tiny))
    MetadataCatalog.get("tiny_c").thing_classes = ["cat"]
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts(["tiny_a", "tiny_c"])


def test_nothing_left_is_an_error(tiny):
    DatasetCatalog.register("tiny_d", lambda: copy.deepcopy(tiny[2:4]))
    with pytest.raises((ValueError, AssertionError), match="tiny_d"):
        get_detection_dataset_dicts("tiny_d")


def test_instances_are_counted(tiny, caplog):
    from densekit.runtime.data import print_instances_class_histogram

    with caplog.at_level(logging.INFO):
        print_instances_class_histogram(tiny, ["lynx", "wolf"])
    assert "lynx 2" in caplog.text and "wolf 2" in caplog.text and "4 instances" in caplog.text
    with pytest.raises(ValueError, match=r"\[1\]"):
        print_instances_class_histogram(tiny, ["cat"])


def config(**values):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny_a",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (20,), 20
    cfg.merge_from_list([x for pair in values.items() for x in (pair[0].replace("__", "."), pair[1])])
    return cfg


def test_train_loader_from_config(tiny):
    batches = list(itertools.islice(build_detection_train_loader(config()), 6))
    assert all(len(batch) == 2 for batch in batches)
    for batch in batches:
        assert len({d["image"].shape[1] > d["image"].shape[2] for d in batch}) == 1  # one aspect
        for d in batch:
            assert d["image_id"] in (0, 1, 4) and d["image"].dtype == torch.uint8
            assert len(d["instances"]) == len(tiny[d["image_id"]]["annotations"]) and "annotations" not in d


def test_train_loader_from_parts(tiny):
    loader = build_detection_train_loader(tiny, mapper=ids_only, total_batch_size=3, aspect_ratio_grouping=False)
    assert sorted(itertools.chain.from_iterable(itertools.islice(loader, 5))) == sorted(list(range(5)) * 3)


def ids_only(record):
    return record["image_id"]


def test_test_loader_goes_through_everything_once(tiny):
    batches = list(build_detection_test_loader(config(), "tiny_a"))
    assert [d["image_id"] for batch in batches for d in batch] == [0, 1, 2, 3, 4]
    assert all("instances" not in d and len(batch) == 1 for batch in batches for d in batch)
    assert [len(b) for b in build_detection_test_loader(tiny, mapper=ids_only, batch_size=2)] == [2, 2, 1]


def test_batch_sizes_are_checked():
    from densekit.runtime.data import build_batch_data_loader, build_detection_train_loader

    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH"):
        build_detection_train_loader([1, 2], mapper=None, total_batch_size=0)
    with pytest.raises(ValueError, match="exclude each other"):
        build_batch_data_loader(Numbers(), TrainingSampler(12), 4, single_gpu_batch_size=2)


def test_unknown_sampler_lists_the_known(tiny):
    with pytest.raises(ValueError, match="Surprise"):
        build_detection_train_loader(config(DATALOADER__SAMPLER_TRAIN="Surprise"))


class Evil:
    def __reduce__(self):
        return (print, ("run by a pickle",))


def test_proposals_are_sorted_and_joined(tiny, tmp_path):
    import pickle

    from densekit.runtime.data import load_proposals_into_dataset
    from densekit.runtime.structures import BoxMode as RuntimeBoxMode

    boxes = [np.random.rand(3, 4).astype(np.float32) for _ in range(5)]
    scores = [np.array([0.1, 0.9, 0.5], dtype=np.float32) for _ in range(5)]
    content = {"ids": [str(i) for i in range(5)][::-1], "boxes": boxes, "objectness_logits": scores}
    for extra in ({}, {"bbox_mode": RuntimeBoxMode.XYXY_ABS}):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps({**content, **extra}, protocol=2))
        joined = load_proposals_into_dataset(copy.deepcopy(tiny), str(tmp_path / "p.pkl"))
        np.testing.assert_array_equal(joined[1]["proposal_boxes"], boxes[3][[1, 2, 0]])
        assert joined[1]["proposal_objectness_logits"].tolist() == scores[0][[1, 2, 0]].tolist()
        assert joined[1]["proposal_bbox_mode"] == RuntimeBoxMode.XYXY_ABS


def test_bad_proposal_files(tiny, tmp_path, capsys):
    import pickle

    from densekit.runtime.data import load_proposals_into_dataset

    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps({"ids": Evil()}))
    with pytest.raises(ValueError, match=r"p\.pkl.*builtins\.print"):
        load_proposals_into_dataset(tiny, str(path))
    assert "run by" not in capsys.readouterr().out
    path.write_bytes(pickle.dumps({"ids": []}))
    with pytest.raises(ValueError, match="lacks boxes"):
        load_proposals_into_dataset(tiny, str(path))
    path.write_bytes(pickle.dumps({"ids": [0, 1], "boxes": [np.ones((1, 4))] * 2, "objectness_logits": [np.ones(1)]}))
    with pytest.raises(ValueError, match="'boxes': 2, 'objectness_logits': 1"):
        load_proposals_into_dataset(tiny, str(path))
    path.write_bytes(pickle.dumps({"ids": [], "boxes": [], "objectness_logits": []}))
    with pytest.raises(ValueError, match="image id 0"):
        load_proposals_into_dataset(tiny, str(path))
