"""Weight files: formats, foreign names, refusals, atomic writing."""

import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from densekit.files.atomic import atomic_write
from densekit.runtime.checkpoint import DetectionCheckpointer
from densekit.weights import LoadReport, adapt_names, read_checkpoint
from densekit.weights.names import from_caffe2, match_by_suffix


class Net(nn.Module):
    def __init__(self, outputs: int = 3):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)})
        self.head = nn.Linear(4, outputs)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    return Net()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def write(path: Path, kind: str, net: nn.Module) -> Path:
    state = net.state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    if kind == "bare.pth":
        torch.save(state, path / kind)
    elif kind == "full.pth":
        torch.save({"model": state, "iteration": 7}, path / kind)
    elif kind == "wrapped.pth":
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path / kind)
    elif kind == "zoo.pkl":
        (path / kind).write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    elif kind == "zoo2.pkl":
        (path / kind).write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2))
    elif kind == "short.pkl":
        short = {name.removeprefix("backbone."): value for name, value in arrays.items()}
        content = {"model": short, "__author__": "somebody", "matching_heuristics": True}
        (path / kind).write_bytes(pickle.dumps(content))
    elif kind == "x.safetensors":
        save_file(state, path / kind)
    return path / kind


@pytest.mark.parametrize(
    "kind", ["bare.pth", "full.pth", "wrapped.pth", "zoo.pkl", "zoo2.pkl", "short.pkl", "x.safetensors"]
)
def test_formats_load_the_same_weights(tmp_path, net, kind):
    other = Net()
    assert not equal(net, other)
    extra = DetectionCheckpointer(other).load(str(write(tmp_path, kind, net)))
    assert equal(net, other)
    assert extra.get("iteration") == (7 if kind == "full.pth" else None)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, suffix):
    marker = tmp_path / "ran"

    class Touch:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    path = tmp_path / f"evil.{suffix}"
    content = {
        "model": {"w": torch.zeros(1) if suffix != "pkl" else np.zeros(1)},
        "__author__": "x",
        "payload": Touch(),
    }
    path.write_bytes(pickle.dumps(content)) if suffix == "pkl" else torch.save(content, path)
    with pytest.raises(ValueError, match=r"evil.*system.*run code"):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_command_line_beside_the_weights_is_no_code(tmp_path):
    arguments = Namespace(lr=0.1, names=["a"], nested=Namespace(on=True))
    torch.save({"model": {"a": torch.ones(2)}, "args": arguments}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert torch.equal(checkpoint["model"]["a"], torch.ones(2)) and checkpoint["args"] == arguments
    torch.save({"model": {"a": torch.ones(2)}, "args": Namespace(run=Path("/tmp"))}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="pathlib"):
        read_checkpoint(tmp_path / "b.pth")


def test_pickled_functions_of_numpy_are_refused(tmp_path):
    class Load:
        def __reduce__(self):
            return np.load, ("x.npy", None, True)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"w": Load()}))
    with pytest.raises(ValueError, match="load"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "safetensors"])
def test_damaged_and_foreign_files_are_named(tmp_path, net, suffix):
    path = tmp_path / f"half.{suffix}"
    whole = write(tmp_path, {"pkl": "zoo.pkl", "pth": "bare.pth", "safetensors": "x.safetensors"}[suffix], net)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match="half"):
        read_checkpoint(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="half"):
        read_checkpoint(path)


def test_missing_file_is_named(net):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DetectionCheckpointer(net).load("nowhere.pth")


# Names


def test_caffe2_background_class_moves():
    blobs = {
        "cls_score_w": torch.arange(4.0)[:, None],
        "bbox_pred_b": torch.arange(16.0),
        "mask_fcn_logits_b": torch.arange(4.0),
    }
    weights = from_caffe2(blobs)
    assert weights["cls_score.weight"].flatten().tolist() == [1, 2, 3, 0]
    assert weights["bbox_pred.bias"].tolist() == list(range(4, 16))
    assert weights["mask_head.predictor.bias"].tolist() == [1, 2, 3]


def test_the_longest_suffix_matches():
    model = {"net.body.conv1.weight": torch.zeros(1), "net.body.res2.conv1.weight": torch.zeros(1)}
    weights = {"conv1.weight": torch.ones(1), "res2.conv1.weight": torch.full((1,), 2.0), "rest": torch.ones(1)}
    matched = match_by_suffix(weights, model)
    assert matched["net.body.conv1.weight"] == 1 and matched["net.body.res2.conv1.weight"] == 2
    assert set(matched) == {*model, "rest"}
    assert "xconv1.weight" not in match_by_suffix(weights, {"xconv1.weight": torch.zeros(1)})


def test_ambiguous_names_are_refused():
    model = {"a.conv.weight": torch.zeros(1), "b.conv.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"a\.conv\.weight.*b\.conv\.weight"):
        match_by_suffix({"conv.weight": torch.ones(1)}, model)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_resnet_fills_the_backbone(depth):
    """The mapped weights give torchvision's own features, so each tensor went where it belongs."""
    import torchvision

    from densekit.runtime.modeling.backbone.resnet import BasicStem, ResNet

    if depth == 18:
        source = torchvision.models.resnet18(num_classes=5)
    else:
        source = torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], num_classes=5, width_per_group=8
        )
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    source.eval()
    stages = ResNet.make_default_stages(depth, norm="FrozenBN") if depth == 18 else narrow_stages()
    target = ResNet(BasicStem(3, 64, norm="FrozenBN"), stages, 5, ["linear"]).eval()
    weights = adapt_names({"model": source.state_dict()}, target.state_dict())
    result = target.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys and not [k for k in result.missing_keys if "num_batches" not in k]
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(target(images)["linear"], source(images), atol=1e-4, rtol=1e-4)


def narrow_stages() -> list:
    """ResNet-50 with an eighth of the bottleneck width, striding in the 3x3 convolution as torchvision does."""
    from densekit.runtime.modeling.backbone.resnet import BottleneckBlock, ResNet

    stages, channels = [], 64
    for index, blocks in enumerate([3, 4, 6, 3]):
        out = 256 * 2**index
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                blocks,
                in_channels=channels,
                out_channels=out,
                bottleneck_channels=8 * 2**index,
                stride_per_block=[1 if index == 0 else 2] + [1] * (blocks - 1),
                stride_in_1x1=False,
                norm="FrozenBN",
            )
        )
        channels = out
    return stages


# Reports


def test_report_groups_names_and_leaves_out_what_is_derived(net):
    other = Net(outputs=5)
    state = dict(net.state_dict(), extra=torch.zeros(1))
    del state["backbone.stem.weight"], state["backbone.stem.bias"], state["backbone.norm.num_batches_tracked"]
    shapes = [(name, (3,), (5,)) for name in ("head.bias",)]
    report = LoadReport.of(other, ["backbone.stem.weight", "backbone.stem.bias"], ["extra"], shapes)
    assert report.total == 8 and report.loaded == 5 and report.coverage == 5 / 8
    table = report.table()
    assert "62%" in table and "backbone.stem" in table and "extra" in table and "(5,)" in table


def test_report_stays_short():
    net = nn.ModuleDict({f"stage{i}": nn.ModuleDict({f"b{j}": nn.Linear(1, 1) for j in range(9)}) for i in range(4)})
    report = LoadReport.of(net, net.state_dict(), [], [])
    assert len(report.table().splitlines()) < 12 and "stage3.*" in report.table()
    assert report.coverage == 0


def test_aliases_of_loaded_tensors_are_not_missing():
    net = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    net["b"].weight = net["a"].weight
    assert LoadReport.of(net, ["b.weight"], [], []).clean


# Writing


def test_save_and_resume(tmp_path, net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    saver = DetectionCheckpointer(net, str(tmp_path), optimizer=optimizer)
    saver.save("model_0000004", iteration=4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert not list(tmp_path.glob(".*"))
    other = Net()
    fresh = torch.optim.SGD(other.parameters(), lr=0.1)
    extra = DetectionCheckpointer(other, str(tmp_path), optimizer=fresh).resume_or_load("", resume=True)
    assert extra["iteration"] == 4 and equal(net, other) and fresh.param_groups[0]["momentum"] == 0.9


def test_a_failing_write_leaves_the_old_file(tmp_path, net, monkeypatch):
    saver = DetectionCheckpointer(net, str(tmp_path))
    saver.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def fail(data, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        saver.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_atomic_write_keeps_the_users_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "new") as file:
        file.write("ä")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "new").read_text(encoding="utf-8") == "ä"
