"""``densekit convert`` on full-size files under foreign names: nothing is missing and nothing is left over."""

import re
from pathlib import Path

import torch
from safetensors import safe_open

from densekit.cli import main
from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.projects import rooms
from densekit.weights.parts import layouts_of

ROOT = Path(__file__).resolve().parents[1]
# Made from the configuration, or counted by norms that models here do not have.
_DERIVED = re.compile(r"pixel_(mean|std)|.*anchor_generator.*|.*num_batches_tracked|.*criterion\.empty_weight")
Shapes = dict[str, tuple[int, ...]]


def shapes_of_model(config: str) -> Shapes:
    cfg = load_config(str(ROOT / "configs" / config), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])  # no values
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build_model(cfg).state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not _DERIVED.fullmatch(name)}


def assert_converts(folder: Path, names: Shapes, config: str, layout: str, capsys) -> None:
    """A file with these names is of one layout, and the command makes it the model of a shipped config.

    Args:
        folder: empty, for the files.
        names: of the file, and the shapes.
        config: below ``configs``.
        layout: its name, as the command prints it.
        capsys: pytest's.
    """
    list(rooms())  # each knows the names of its published weights
    claims = [found.name for found in layouts_of(names) if not found.unknown(names)]
    assert claims == ([] if layout == "names kept" else [layout])
    # Bytes stand for numbers, for the sake of the disk.
    weights = {name: torch.zeros(tuple(shape), dtype=torch.uint8) for name, shape in names.items()}
    torch.save({"model": weights, "optimizer": {"lr": 0.1}}, folder / "theirs.pth")
    assert main(["convert", str(folder / "theirs.pth"), str(folder / "ours.safetensors")]) == 0
    with safe_open(folder / "ours.safetensors", "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    for path in folder.iterdir():
        path.unlink()
    assert f"({layout})" in capsys.readouterr().out
    assert {name: shape for name, shape in found.items() if not _DERIVED.fullmatch(name)} == shapes_of_model(config)


def assert_converts_renamed(folder: Path, rename, config: str, layout: str, capsys) -> None:
    """As :func:`assert_converts`, for a model's names as ``rename`` has them in another vocabulary."""
    wanted = shapes_of_model(config)
    names = {rename(name): shape for name, shape in wanted.items()}
    assert len(names) == len(wanted) and names.keys() != wanted.keys()
    assert_converts(folder, names, config, layout, capsys)


def torchvision_resnet(name: str) -> str:
    """torchvision's name of a part of the host's ResNet."""
    name = name.replace("stem.", "").replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    name = re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
    return re.sub(r"res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)
