"""Scores resized to the picture, against interpolation written out, alone and in batches, and in the loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import Backbone, SemanticSegmentor
from densekit.modeling.image_sized_segmentor import ImageSizedSegmentor
from densekit.modeling.semantic_head import Features, SemanticHead

MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


class Means(Backbone):
    """Means over cells of 4 x 4 pixels, those at the border of fewer."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"p": F.avg_pool2d(x, 4, ceil_mode=True, count_include_pad=False)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"p": ShapeSpec(channels=3, stride=4)}


class AsScores(SemanticHead):
    """A head whose scores are the map."""

    def layers(self, features: Features) -> Tensor:
        return features["p"]


def model(kind: type = ImageSizedSegmentor, *, align_corners: bool = False, **options) -> SemanticSegmentor:
    head = AsScores(stride=4, align_corners=align_corners)
    return kind(backbone=Means(), sem_seg_head=head, pixel_mean=MEAN, pixel_std=STD, **options).eval()


def picture(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width)) * 255


def scores(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return Means()(((image - mean) / std)[None])["p"][0]


def bilinear(scores: Tensor, height: int, width: int, corners: bool) -> Tensor:
    """Each pixel by itself, in float64."""
    rows, columns = scores.shape[-2:]

    def places(count: int, cells: int) -> Tensor:
        at = torch.arange(count, dtype=torch.float64)
        return at * (cells - 1) / (count - 1) if corners else ((at + 0.5) * cells / count - 0.5).clamp(min=0)

    def weights(at: Tensor, cells: int) -> Tensor:  # (count, cells)
        return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0) + (
            (at[:, None] > cells - 1) & (torch.arange(cells) == cells - 1)
        ) * (at[:, None] - (cells - 1))

    return weights(places(height, rows), rows) @ scores.double() @ weights(places(width, columns), columns).T


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("resize_to", "steps"), [("input", [(107, 139), (50, 61)]), ("output", [(50, 61)])])
def test_scores_are_resized_to_the_picture_in_one_step_or_two(corners, resize_to, steps):
    image = picture(107, 139)
    expected = scores(image)
    for step in steps:
        expected = bilinear(expected, *step, corners)
    found = model(align_corners=corners, resize_to=resize_to)([{"image": image, "height": 50, "width": 61}])
    torch.testing.assert_close(found[0]["sem_seg"].double(), expected, atol=1e-5, rtol=1e-5)


def test_the_host_model_is_the_same_where_the_stride_divides_the_sides_and_another_elsewhere():
    even, odd = picture(48, 64), picture(107, 139)
    for resize_to in ("input", "output"):
        ours = model(resize_to=resize_to)
        torch.testing.assert_close(
            ours([{"image": even}])[0]["sem_seg"], model(SemanticSegmentor)([{"image": even}])[0]["sem_seg"]
        )
        assert not torch.allclose(
            ours([{"image": odd}])[0]["sem_seg"], model(SemanticSegmentor)([{"image": odd}])[0]["sem_seg"], atol=1e-3
        )


def test_pictures_of_a_batch_keep_their_own_frames():
    images = [picture(40, 72), picture(64, 30)]
    outputs = model(resize_to="output")([{"image": image, "height": 33, "width": 35} for image in images])
    assert [tuple(output["sem_seg"].shape) for output in outputs] == [(3, 33, 35)] * 2
    padded = F.pad((images[1] - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1), (0, 42))
    expected = bilinear(Means()(padded[None])["p"][0], 64, 72, False)[:, :, :30]
    torch.testing.assert_close(outputs[1]["sem_seg"].double(), bilinear(expected, 33, 35, False), atol=1e-5, rtol=1e-5)


def test_the_loss_sees_the_same_scores():
    image, labels = picture(30, 42), torch.randint(0, 3, (30, 42))
    net = model()
    at_pixels = net([{"image": image}])[0]["sem_seg"]
    loss = net.train()([{"image": image, "sem_seg": labels}])["loss_sem_seg"]
    torch.testing.assert_close(loss, F.cross_entropy(at_pixels[None], labels[None]))


def test_a_wrong_frame_and_another_head_are_refused():
    with pytest.raises(ValueError, match=r"RESIZE_TO is 'pixels'; it can be input or output"):
        model(resize_to="pixels")
    with pytest.raises(ValueError, match=r"Linear does not offer them. Use SemanticSegmentor"):
        ImageSizedSegmentor(
            backbone=Means(), sem_seg_head=torch.nn.Linear(1, 1), pixel_mean=MEAN, pixel_std=STD, resize_to="input"
        )
