"""Weight files inside installed packages, and files of a part of a model."""

import pytest
import torch

from densekit.checkpoint.sources import local_weights
from densekit.weights.names import below_prefix


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "carrier" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('a weight file needs no import')\n")
    torch.save({"a": torch.ones(2)}, folder / "net.pth")
    (tmp_path / "secret.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_file_of_a_package_is_found_without_importing_it(package):
    assert local_weights("package://carrier/models/net.pth") == str(package / "net.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package://carrier/models/other.pth", r"no file 'models/other.pth'. Its weight files: models/net.pth"),
        ("package://carrier/../secret.pth", r"no file '../secret.pth'"),
        ("package://not_there/net.pth", r"no installed package 'not_there'. pip install not-there"),
        ("package://with-hyphen/net.pth", r"the name that it is imported by"),
    ],
)
def test_what_is_missing_is_named(package, name, message):
    with pytest.raises(FileNotFoundError, match=message):
        local_weights(name)


def test_wrong_sum_of_a_packages_file_is_refused(package):
    with pytest.raises(ValueError, match="not the expected ones"):
        local_weights(f"package://carrier/models/net.pth#sha256={'0' * 64}")


def test_file_of_a_part_goes_below_the_name_of_the_part():
    values = {name: torch.zeros(1) for name in ("stem.weight", "layer.0.weight", "head.weight")}
    model = {f"backbone.net.{name}": torch.zeros(1) for name in ("stem.weight", "layer.0.weight")}
    moved = below_prefix(values, {**model, "roi_heads.weight": torch.zeros(1)})
    assert set(moved) == {f"backbone.net.{name}" for name in values}


def test_files_of_whole_models_and_of_other_models_stay_as_they_are():
    weights = {"a.weight": torch.zeros(1), "b.weight": torch.zeros(1), "c.weight": torch.zeros(1)}
    assert below_prefix(weights, {"a.weight": torch.zeros(1), "x.b.weight": torch.zeros(1)}) is weights
    assert below_prefix(weights, {"x.a.weight": torch.zeros(1)}) is weights
