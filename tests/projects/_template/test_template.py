"""The template's head: its maths, where a config puts it, its names in published weights, its checker."""

from pathlib import Path

import pytest
import torch

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling.roi_heads import build_box_head
from densekit.projects._template.pooled_mlp import PooledMLP
from densekit.weights.parts import rename_part
from tests.projects._template.recorded import check
from tests.recorded_cases import assert_agrees
from tests.tolerances import close

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "_template"


def plain(mlp: PooledMLP, x: torch.Tensor) -> torch.Tensor:
    """The same, number by number."""
    (n, c), hidden = x.shape[:2], len(mlp.fc1.bias)
    out = torch.zeros(n, hidden, dtype=x.dtype)
    for i in range(n):
        mean = [x[i, k].sum() / x[i, k].numel() for k in range(c)]
        first = [max(0, sum(w * m for w, m in zip(mlp.fc1.weight[j], mean)) + mlp.fc1.bias[j]) for j in range(hidden)]
        for j in range(hidden):
            out[i, j] = max(0, sum(w * f for w, f in zip(mlp.fc2.weight[j], first)) + mlp.fc2.bias[j])
    return out


def test_the_head_is_its_definition():
    mlp, x = PooledMLP(in_channels=3, hidden_dim=4).double(), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(mlp(x), plain(mlp, x), **close(torch.float64))


def test_places_in_a_region_do_not_matter():
    mlp, x = PooledMLP(in_channels=3, hidden_dim=4), torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(mlp(x), mlp(x.flip(2).transpose(2, 3)))


def test_gradients():
    mlp = PooledMLP(in_channels=2, hidden_dim=3).double()
    assert torch.autograd.gradcheck(mlp, torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True))


def test_a_config_chooses_it():
    cfg = load_config(str(CONFIGS / "faster_rcnn_R_50_FPN_template.yaml"), ["MODEL.TEMPLATE.HIDDEN_DIM", "7"])
    head = build_box_head(cfg, ShapeSpec(channels=5, height=7, width=7))
    assert head.output_shape == ShapeSpec(channels=7)
    assert head(torch.randn(3, 5, 7, 7)).shape == (3, 7)


def test_published_names_are_its_own():
    theirs = [f"template_fcs.{k}.{kind}" for k in range(2) for kind in ("weight", "bias")]
    found = rename_part("mmdetection", "bbox_head", {name: torch.zeros(1) for name in theirs})
    own = {f"box_head.mlp.{name}" for name in PooledMLP(in_channels=2, hidden_dim=2).state_dict()}
    assert set(found) == own


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_the_checker_sees_differences(tmp_path, error):
    mlp, x = PooledMLP(in_channels=3, hidden_dim=4), torch.randn(2, 3, 5, 4)
    case = {"state_dict": mlp.state_dict(), "input": x, "output": mlp(x).detach() + error}
    torch.save({"pooled_mlp": [case]}, tmp_path / "template.pt")
    if error:
        with pytest.raises(AssertionError, match="pooled_mlp 0"):
            assert_agrees(check, tmp_path / "template.pt")
    else:
        assert_agrees(check, tmp_path / "template.pt")
