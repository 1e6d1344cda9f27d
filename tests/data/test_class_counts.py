"""Counts of classes from the data, one reading of each file, agreement of data sets, and what a run writes down."""

import functools
import json

import pytest
import yaml

from densekit.config import explicit_keys, load_config
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data import register_from_yaml
from densekit.data.checks import check_datasets
from densekit.data.class_counts import CLASS_COUNTS, count_keys, set_class_counts
from densekit.data.identity import check_classes_of_weights, write_classes
from densekit.data.mapper import MAPPERS
from densekit.data.registry import Entry, load_and_keep, register
from tests.data.own_forms import write_catalog, write_pictures, write_semantic, write_voc


@pytest.fixture
def own(tmp_path):
    write_pictures(tmp_path)
    maps = write_semantic(tmp_path)
    register_from_yaml(write_catalog(tmp_path, boxes=write_voc(tmp_path), maps=maps))


def config(architecture="GeneralizedRCNN", **keys):
    cfg = load_config("")
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("boxes",) if architecture == "GeneralizedRCNN" else ("maps",)
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    return cfg


def test_counts_come_from_the_data(own):
    cfg = config()
    (note,) = set_class_counts(cfg, "boxes", set())
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert note == "MODEL.ROI_HEADS.NUM_CLASSES is 2, the classes of data set 'boxes' (cat, dog), not 80."
    assert set_class_counts(cfg, "boxes", set()) == []
    cfg = config("SemanticSegmentor")
    set_class_counts(cfg, "maps", set())
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2 and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80
    check_datasets(cfg)


def test_what_the_user_has_set_stays_and_is_judged(own):
    cfg = config()
    assert set_class_counts(cfg, "boxes", {"MODEL.ROI_HEADS.NUM_CLASSES"}) == []
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 80, but data set 'boxes' has 2 classes \(cat, dog\)"):
        check_datasets(cfg)


def test_what_counts_as_set_by_the_user(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {ROI_HEADS: {NUM_CLASSES: 5}}\nSEED: 1\n")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nMODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 3}}\n")
    keys = explicit_keys(str(tmp_path / "own.yaml"), ["MODEL.DEVICE", "cpu"])
    assert keys - {"_BASE_"} == {"MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.DEVICE"}
    assert explicit_keys("") == set()


def test_keypoints_and_copies(tiny, monkeypatch):
    tiny.content["categories"] = tiny.content["categories"][1:]
    tiny.content["annotations"] = [a for a in tiny.content["annotations"] if a["category_id"] == 3]
    tiny.register()
    copy = {"MODEL.TEMPLATE.HIDDEN_DIM": "thing_classes"}
    monkeypatch.setitem(CLASS_COUNTS._obj_map, "copy", lambda cfg: copy)
    cfg = config(**{"MODEL.KEYPOINT_ON": True, "DATASETS.TRAIN": ("tiny",), "DATASETS.TEST": ("tiny",)})
    before = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert len(set_class_counts(cfg, "tiny", set())) == 3
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 3
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.TEMPLATE.HIDDEN_DIM) == (1, 1)
    assert before == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    check_datasets(cfg)
    cfg.MODEL.TEMPLATE.HIDDEN_DIM = 4
    with pytest.raises(ValueError, match=r"TEMPLATE\.HIDDEN_DIM is 4"):
        check_datasets(cfg)


def test_projects_name_their_own_key(own, monkeypatch):
    def rule(cfg):
        return {"MODEL.TEMPLATE.HIDDEN_DIM": "thing_classes"} if cfg.MODEL.META_ARCHITECTURE == "Other" else {}

    monkeypatch.setitem(CLASS_COUNTS._obj_map, "other", rule)
    assert count_keys(config("Other")) == {"MODEL.TEMPLATE.HIDDEN_DIM": "thing_classes"}


def read_and_count(calls):
    calls.append(1)
    return [{"file_name": "a", "annotations": []}]


def test_files_are_read_once_for_the_check_and_the_loader(own):
    calls = []
    load = functools.partial(read_and_count, calls)
    DatasetCatalog.register("counted", load)
    records = load_and_keep("counted")
    assert load_and_keep("counted") is records and DatasetCatalog.get("counted") is records and calls == [1]
    assert DatasetCatalog["counted"] is load  # nothing is held any longer
    DatasetCatalog.get("counted")
    assert len(calls) == 2


def test_the_check_keeps_what_the_run_reads_next(own, monkeypatch):
    from densekit.data.own import voc

    reads = []
    original = voc._read
    monkeypatch.setattr(voc, "_read", lambda *args: reads.append(args) or original(*args))
    cfg = config()
    cfg.DATASETS.TEST = ()
    set_class_counts(cfg, "boxes", set())
    check_datasets(cfg)
    DatasetCatalog.get("boxes")
    assert len(reads) == 3  # once for each image


def test_kept_data_can_be_registered_again(own, tmp_path):
    load = functools.partial(len, ())
    with pytest.raises(ValueError, match="taken by another loader"):
        DatasetCatalog.register("theirs", lambda: [])
        register(Entry("theirs", load, {}))
    records = load_and_keep("boxes")
    register_from_yaml(tmp_path / "own.yaml")
    assert DatasetCatalog.get("boxes") is records


def test_data_sets_must_agree_on_their_classes(own, tmp_path):
    entry = write_voc(tmp_path) | {"classes": ["dog", "cat"]}
    register_from_yaml(write_catalog(tmp_path, turned=entry))
    cfg = config(**{"DATASETS.TEST": ("turned",), "MODEL.ROI_HEADS.NUM_CLASSES": 2})
    with pytest.raises(ValueError, match="'boxes' and 'turned' have different thing_classes: cat, dog and dog, cat"):
        check_datasets(cfg)


def test_panoptic_records_are_learnt_where_the_mapper_makes_objects_of_them(own, monkeypatch):
    record = {"file_name": "a.png", "pan_seg_file_name": "a_segments.png", "segments_info": [{"id": 1}]}
    DatasetCatalog.register("segments", lambda: [record])
    monkeypatch.setitem(MAPPERS._obj_map, "SegmentMapper", type("SegmentMapper", (), {"learns_segments": True}))
    keys = {"DATASETS.TRAIN": ("segments",), "DATASETS.TEST": ()}
    check_datasets(config(**keys, **{"INPUT.MAPPER": "SegmentMapper"}))
    with pytest.raises(ValueError, match="learns objects, and data set 'segments' has none"):
        check_datasets(config(**keys))


def test_data_that_does_not_fit_the_task(own, tmp_path):
    register_from_yaml(write_catalog(tmp_path, photos={"form": "images", "images": "images"}))
    with pytest.raises(ValueError, match=r"'photos' has images and no annotations.*densekit predict"):
        check_datasets(config(**{"MODEL.ROI_HEADS.NUM_CLASSES": 2, "DATASETS.TEST": ("photos",)}))
    with pytest.raises(ValueError, match="learns objects, and data set 'maps' has none"):
        check_datasets(config(**{"DATASETS.TRAIN": ("maps",)}))
    with pytest.raises(ValueError, match=r"learns label maps, and image .*a\.jpg of data set 'boxes' has none"):
        check_datasets(config("SemanticSegmentor", **{"DATASETS.TRAIN": ("boxes",)}))
    cfg = config("SemanticSegmentor", **{"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 0})
    with pytest.raises(ValueError, match=r"Set MODEL\.SEM_SEG_HEAD\.IGNORE_VALUE 255"):
        check_datasets(cfg)


def test_raw_label_maps_beyond_the_classes(own):
    records = [{key: value for key, value in r.items() if key != "sem_seg_values"} for r in DatasetCatalog.get("maps")][
        2:
    ]
    DatasetCatalog.register("raw", lambda: records)
    cfg = config("SemanticSegmentor", **{"DATASETS.TRAIN": ("raw",), "DATASETS.TEST": ()})
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    with pytest.raises(ValueError, match=r"b\.png of data set 'raw' has the class 7; .* 2 classes are 0 to 1"):
        check_datasets(cfg)


def test_a_run_writes_down_what_its_classes_are(own, tmp_path):
    DatasetCatalog.get("boxes")
    write_classes(str(tmp_path), "boxes")
    content = json.loads((tmp_path / "classes.json").read_text())
    assert content == {"dataset": "boxes", "thing_classes": [{"index": 0, "id": 1, "name": "cat"},
                                                             {"index": 1, "id": 2, "name": "dog"}]}  # fmt: skip
    cfg = config()
    check_classes_of_weights(cfg, ("thing_classes",), str(tmp_path))
    MetadataCatalog.get("fish").thing_classes = ["carp", "eel"]
    cfg.DATASETS.TEST = ("fish",)
    with pytest.raises(ValueError, match=r"trained on data set 'boxes' with 2 classes \(cat, dog\).*'fish' has 2"):
        check_classes_of_weights(cfg, ("thing_classes",), str(tmp_path))
    check_classes_of_weights(cfg, ("thing_classes",), str(tmp_path / "elsewhere"))
    (tmp_path / "classes.json").write_text("[")
    with pytest.raises(ValueError, match=r"classes\.json is damaged"):
        check_classes_of_weights(cfg, ("thing_classes",), str(tmp_path))


def test_yaml_of_the_run_registers_the_same_from_anywhere(own, tmp_path, monkeypatch, tmp_path_factory):
    from densekit.data.own.catalog import register_entries, register_flag

    entries = register_entries(str(tmp_path / "own.yaml"))
    copy = tmp_path_factory.mktemp("run") / "datasets.yaml"
    copy.write_text(yaml.safe_dump(entries))
    assert register_from_yaml(copy) == sorted(entries)  # the same data sets: no contradiction
    monkeypatch.chdir(tmp_path)
    entry = register_flag("--train-data", "flagged", "form: yolo, images: images, labels: maps, classes: [cat, dog]")
    assert entry == {"form": "yolo", "images": str(tmp_path / "images"), "labels": str(tmp_path / "maps"),
                     "classes": ["cat", "dog"]}  # fmt: skip
    with pytest.raises(ValueError, match=r"--train-data 'form: \[' cannot be read(.|\n)*Write it as 'form: coco"):
        register_flag("--train-data", "broken", "form: [")
    with pytest.raises(ValueError, match=r"--val-data 'form: what, .*form is 'what'"):
        register_flag("--val-data", "broken", "form: what, images: images")
