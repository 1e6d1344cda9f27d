"""Swin as an ONNX graph with dynamic sizes: the same maps at sizes other than the traced one."""

import pytest
import torch

from densekit.projects.swin.backbone import SwinTransformer
from tests.tolerances import PARITY

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.filterwarnings("ignore")
def test_an_exported_graph_takes_other_sizes(tmp_path):
    torch.manual_seed(0)
    model = SwinTransformer(embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=3, out_features=["res2", "res3"])
    model.eval()
    path = tmp_path / "swin.onnx"
    height, width = torch.export.Dim("height", min=16), torch.export.Dim("width", min=16)
    torch.onnx.export(
        model, (torch.randn(1, 3, 60, 76),), str(path), dynamo=True, opset_version=20, verbose=False,
        dynamic_shapes={"x": {2: height, 3: width}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for size in ((60, 76), (48, 96), (53, 101)):  # the traced size, whole windows, windows and patches that are padded
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = model(x).values()
        for ours, theirs in zip(session.run(None, {entry.name: x.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, **PARITY)
