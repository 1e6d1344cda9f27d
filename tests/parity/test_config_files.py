"""Our configs say the same as Detectron2's files of the same name, on both hosts; its files load here unchanged."""

from pathlib import Path

import pytest

from densekit.runtime.config import get_cfg

detectron2 = pytest.importorskip("detectron2")
from detectron2.config import get_cfg as get_upstream_cfg  # noqa: E402

ROOT = Path(__file__).resolve().parents[2] / "configs"
FAMILIES = (
    *("COCO-Detection", "COCO-InstanceSegmentation", "COCO-Keypoints", "COCO-PanopticSegmentation"),
    *("Misc", "Cityscapes"),
)
# What Detectron2 has no file for.
OWN = ("Cityscapes/semantic_", "Cityscapes/panoptic_")
OURS = [path.relative_to(ROOT) for family in FAMILIES for path in sorted((ROOT / family).glob("*.yaml"))]

PACKAGE = Path(detectron2.__file__).resolve().parent
UPSTREAM = next((f for f in (PACKAGE / "model_zoo" / "configs", PACKAGE.parent / "configs") if f.is_dir()), None)
needs_files = pytest.mark.skipif(UPSTREAM is None, reason="Detectron2 is installed without its configs")
THEIRS = [
    path.relative_to(UPSTREAM) for family in FAMILIES for path in sorted((UPSTREAM / family).glob("*.yaml"))
] if UPSTREAM else []  # fmt: skip


# Says for which batch size a schedule is meant; it changes no other key of these files.
BATCH = "REFERENCE_BATCH_SIZE"


def resolved(cfg, path: Path) -> dict:
    cfg.SOLVER[BATCH] = 0
    cfg.merge_from_file(str(path))
    del cfg.SOLVER[BATCH]
    return flat(cfg)


def flat(node, prefix="") -> dict:
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def differences(ours: dict, theirs: dict) -> dict:
    return {
        key: (value, theirs.get(key, "missing")) for key, value in ours.items() if value != theirs.get(key, "missing")
    }


def test_all_families_are_there():
    assert {path.parts[0] for path in OURS} == set(FAMILIES)


@needs_files
@pytest.mark.parametrize("path", [path for path in OURS if not path.as_posix().startswith(OWN)], ids=str)
def test_same_name_means_the_same_model_data_and_schedule(path):
    theirs = resolved(get_upstream_cfg(), UPSTREAM / path)
    assert differences(theirs, resolved(get_upstream_cfg(), ROOT / path)) == {}
    assert differences(resolved(get_cfg(), ROOT / path), theirs) == {}


@needs_files
@pytest.mark.parametrize("path", THEIRS, ids=str)
def test_their_file_loads_unchanged(path):
    assert differences(resolved(get_cfg(), UPSTREAM / path), resolved(get_upstream_cfg(), UPSTREAM / path)) == {}
