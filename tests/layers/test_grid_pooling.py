"""Pooling to a fixed grid as matrix products."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densekit.layers.grid_pooling import grid_mean


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 3), (12, 20), (31, 22), (64, 7)])
@pytest.mark.parametrize("grid", [1, 2, 3, 6, 12, 20])
def test_means_are_those_of_torch(size, grid):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(grid_mean(x, grid), F.adaptive_avg_pool2d(x, grid))


def test_gradients():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: grid_mean(x, 3), x)


@pytest.mark.filterwarnings("ignore")
def test_exported_pooling_agrees_at_other_sizes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Pool(nn.Module):
        def forward(self, x):
            return grid_mean(x, 6)

    file, sides = tmp_path / "pool.onnx", {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        Pool(),
        (torch.randn(1, 2, 16, 20),),
        file,
        dynamo=True,
        dynamic_shapes={"x": sides},
        optimize=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file)
    for size in ((20, 16), (7, 3), (5, 31)):
        x = torch.randn(1, 2, *size)
        (exported,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(exported), grid_mean(x, 6), atol=1e-5, rtol=1e-5)
