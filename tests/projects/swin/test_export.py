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
    model = SwinTransformer(embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=3, out_features=["res2", "res3"])
    model.eval()
    path = tmp_path / "swin.onnx"
    # Multiples of 8, as a pyramid pads its images: tracing any size takes minutes of symbolic divisions.
    height, width = 8 * torch.export.Dim("height", min=4, max=400), 8 * torch.export.Dim("width", min=4, max=400)
    torch.onnx.export(
        model, (torch.randn(1, 3, 56, 80),), str(path), dynamo=True, opset_version=20, verbose=False,
        dynamic_shapes={"x": {2: height, 3: width}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for size in ((56, 80), (48, 96), (72, 136)):  # the traced size, whole windows, and windows that are padded
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = model(x).values()
        for ours, theirs in zip(session.run(None, {entry.name: x.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, **PARITY)
