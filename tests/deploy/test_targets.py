"""Files of exported models: what a graph gives, at sizes that were not traced, and what it says of itself."""

import io

import pytest
import torch
from torch import nn

from densekit.deploy import targets
from densekit.deploy.graphs import suppressed
from densekit.layers.grid_pooling import grid_mean

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "program": ()}
ABOUT = {
    "inputs": ["image", "size"],
    "outputs": ["map", "boxes"],
    "input": {"placement": {"multiple": 32}, "least_side": 160},
    "classes": [{"id": 3, "name": "tree"}],
}


class Everything(nn.Module):
    """Has what is hard about graphs of any size: pooling to a grid, enlarging, choosing, suppressing, none left."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, stride=8, padding=1)

    def forward(self, image, size):
        maps = self.layer(image[None])
        context = nn.functional.interpolate(grid_mean(maps, 3), size=maps.shape[-2:], mode="bilinear")
        scores = (maps + context)[0, 0]
        rows, columns = (scores > 0.5).nonzero(as_tuple=True)
        corner = torch.stack([columns, rows], 1) * 8.0
        boxes = torch.cat([corner, torch.minimum(corner + 30, size.flip(0))], 1)
        return maps[0] + context[0], boxes[suppressed(boxes, scores[rows, columns], rows % 3, 0.43)]


@pytest.fixture(scope="module")
def graph():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Everything().eval()


@pytest.mark.parametrize("target", targets.SUFFIXES)
def test_a_file_gives_what_the_graph_gives(target, graph, tmp_path):
    for package in NEEDS[target]:
        pytest.importorskip(package)
    content = targets.made(graph, target, torch.rand(3, 160, 224), (150, 200), ABOUT)
    path = tmp_path / f"model{targets.SUFFIXES[target]}"
    targets.write(path, content)
    about, run = targets.opened(targets.read(path), target)
    assert about == ABOUT
    counts = []
    for *sides, factor in ((192, 256, 2), (416, 160, 2), (192, 160, 0)):
        image = factor * torch.randn(3, *sides, generator=torch.Generator().manual_seed(1))
        inputs = [image, torch.tensor(sides).float()]
        with torch.no_grad():
            expected = graph(*inputs)
        counts.append(len(expected[1]))
        for one, other in zip(run(inputs), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert counts[0] > 5 and counts[2] == 0  # of none, too


@pytest.mark.parametrize("target", targets.SUFFIXES)
def test_a_damaged_file_is_named(target):
    for package in NEEDS[target]:
        pytest.importorskip(package)
    content = {".bin": b"", targets.SUFFIXES[target]: b"nothing of the kind"}
    with pytest.raises(ValueError, match=f"a.file is damaged or no {target} file"):
        targets.opened(content, target, "a.file")


def test_a_file_of_another_maker_is_refused():
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Identity(), (torch.zeros(2),)), file)
    with pytest.raises(ValueError, match="says nothing of what it takes and gives"):
        targets.opened({".pt2": file.getvalue()}, "program")


def test_a_file_that_is_missing_is_named(tmp_path):
    (tmp_path / "model.xml").write_text("")
    with pytest.raises(FileNotFoundError, match=r"model\.bin does not exist"):
        targets.read(tmp_path / "model.xml")
