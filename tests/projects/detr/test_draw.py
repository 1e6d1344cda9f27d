"""The pictures of DETR's attention: the numbers that they show, and what the command refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.projects.detr import draw
from densekit.projects.detr.attention_maps import attention_of, boxes_of_slots
from tests.projects.detr.test_detr import ROOT, SMALL, small


@pytest.fixture
def item():
    return {"image": torch.randint(0, 256, (3, 96, 160), dtype=torch.uint8)}


@pytest.mark.parametrize("pre_norm", [False, True])
def test_attention_is_a_distribution_over_the_cells(item, pre_norm):
    model = small(PRE_NORM=pre_norm, ENC_LAYERS=2).eval()
    seen = attention_of(model, item)
    assert seen.queries.shape == (7, 3, 5) and seen.cells.shape == (3, 5, 3, 5)
    for maps in (seen.queries.sum(dim=(1, 2)), seen.cells.sum(dim=(2, 3)), seen.probability.sum(dim=1)):
        torch.testing.assert_close(maps, torch.ones_like(maps))
    with torch.no_grad():
        result = model([item])[0]["instances"]
    torch.testing.assert_close(result.scores, seen.probability[:, :-1].max(dim=1).values)


def test_slots_keep_their_order_over_the_images(item):
    model = small().eval()
    other = {"image": 255 - item["image"]}
    boxes = boxes_of_slots(model, [item, other, item])
    assert boxes.shape == (3, 7, 4) and torch.equal(boxes[0], boxes[2]) and not torch.equal(boxes[0], boxes[1])


def test_the_command_draws_and_refuses(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    torch.save({"model": small().state_dict()}, tmp_path / "weights.pth")
    options = [str(part) for pair in {**SMALL, "MODEL.WEIGHTS": tmp_path / "weights.pth"}.items() for part in pair]
    config = ["--config-file", str(ROOT / "configs/detr/detr_R_50.yaml"), *options]
    config += ["INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "160"]
    image = ["--image", str(tmp_path / "in.png"), "--score", "0"]
    draw.main(["queries", "--output", str(tmp_path / "queries.png"), *image, *config])
    draw.main(["encoder", "--output", str(tmp_path / "encoder.png"), *image, "--point", "79", "3", *config])
    for name in ("queries", "encoder"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 10
    with pytest.raises(ValueError, match="80 x 48 pixels"):
        draw.main(["encoder", "--output", str(tmp_path / "no.png"), *image, "--point", "80", "3", *config])
    image[-1] = "1.1"
    with pytest.raises(ValueError, match=r"no query has a score of 1\.1"):
        draw.main(["queries", "--output", str(tmp_path / "no.png"), *image, "--point", "1", "1", *config])
    assert not (tmp_path / "no.png").exists()


def test_slots_are_coloured_by_the_size_and_form_of_their_boxes():
    small, wide, tall = [0.1, 0.2, 0.1, 0.1], [0.3, 0.4, 0.9, 0.3], [0.5, 0.6, 0.3, 0.9]
    figure = draw.draw_slots(torch.tensor([[small, wide], [tall, small]]))  # two images, two slots
    drawn = [[points.get_offsets().tolist() for points in axis.collections] for axis in figure.axes]
    green, red, blue = ([pytest.approx(box[:2])] for box in (small, wide, tall))
    assert drawn == [[green, [], blue], [green, red, []]]


def test_a_lit_picture_is_bright_where_the_attention_is():
    attention = torch.zeros(2, 2)
    attention[0, 1] = 1.0
    lit = draw._lit(np.full((40, 40, 3), 200, dtype=np.uint8), attention)
    assert lit[5, 35, 0] == 200 and lit[35, 5, 0] == 40
