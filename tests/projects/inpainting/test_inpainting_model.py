"""Properties of the generators, of masks that pass through upsampling, of discriminators, and of the model."""

import pytest
import torch

from densekit.d2.utils.events import EventStorage
from densekit.data.progress import Progress
from densekit.layers import UPSAMPLERS, build_upsampler
from densekit.ops.carafe import carafe
from densekit.projects.inpainting.discriminators import GlobalLocalDiscriminator, PatchDiscriminator
from densekit.projects.inpainting.global_local import GlobalLocal
from densekit.projects.inpainting.losses import composite, discriminator_loss, generator_loss, gram_matrix
from densekit.projects.inpainting.masked_upsampling import MaskedUpsampler
from densekit.projects.inpainting.meta_arch import Inpainter
from densekit.projects.inpainting.partial_unet import PartialUNet
from tests.tolerances import close

LOSSES = {"l1": 1.0, "tv": 0.1, "adversarial": 0.1}


def small_generator(name="global_local", upsampler="carafe"):
    def make(channels):
        options = {"compressed_channels": 3} if upsampler == "carafe" else {}
        return build_upsampler(upsampler, channels, **options)

    if name == "global_local":
        return GlobalLocal(widths=(4, 5, 6, 3), upsampler=make, output="tanh")
    return PartialUNet(widths=(4, 5, 6), upsampler=make, output="tanh")


def small_model(generator="global_local", upsampler="carafe", **options):
    options = {"discriminator": PatchDiscriminator(widths=(4, 5)), "weights": LOSSES} | options
    means = {"pixel_mean": [127.5] * 3, "pixel_std": [127.5] * 3, "hole_value": [127.5] * 3}
    return Inpainter(generator=small_generator(generator, upsampler), **means, **options)


def item(height=32, width=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[6:20, 9:30] = True
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8), "hole": hole}


def masks(size=(7, 9)):
    mask = (torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    mask[1, :, :4] = 0
    return mask


# Masks through upsampling


@pytest.mark.parametrize(
    "options",
    [{}, {"normalizer": "sigmoid"}, {"up_group": 2}, {"up_kernel": 3, "scale_factor": 3}],
    ids=["softmax", "sigmoid", "groups", "thrice"],
)
@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0])
def test_valid_pixels_alone_decide_what_carafe_calls_valid(options, threshold):
    layer = build_upsampler("carafe", 4, compressed_channels=3, **options)
    torch.nn.init.normal_(layer.content_encoder.weight)  # kernels that differ from each other
    upsample = MaskedUpsampler(layer, threshold=threshold)
    x, mask = torch.randn(2, 4, 7, 9), masks()
    y, new_mask = upsample(x, mask)
    other, other_mask = upsample(torch.where(mask > 0, x, 100 * torch.randn_like(x)), mask)
    assert torch.equal(new_mask, other_mask) and set(new_mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(y, other)
    assert torch.equal(y, y * new_mask)
    assert 0 < new_mask.mean() < 1 or threshold == 1.0


def test_carafe_of_a_valid_picture_is_carafe():
    layer = build_upsampler("carafe", 4, compressed_channels=3)
    torch.nn.init.normal_(layer.content_encoder.weight)
    x = torch.randn(2, 4, 7, 9)
    y, mask = MaskedUpsampler(layer)(x, torch.ones(2, 1, 7, 9))
    assert mask.all() and torch.equal(y, layer(x))


def test_carafe_of_a_constant_stays_constant_where_valid():
    """Renormalising by the share of valid weight makes up for the holes, as partial convolution does."""
    layer = build_upsampler("carafe", 4, compressed_channels=3)
    x, mask = torch.full((2, 4, 12, 12), 3.0), masks((12, 12))
    y, new_mask = MaskedUpsampler(layer, threshold=0.2)(x, mask)
    inside = torch.zeros_like(new_mask)
    inside[..., 4:-4, 4:-4] = 1  # at the border CARAFE's own windows reach beyond the picture
    there = (new_mask * inside).expand_as(y) > 0
    torch.testing.assert_close(y[there], torch.full_like(y[there], 3.0), **close(torch.float32))


def test_the_share_is_that_of_the_definition():
    layer = build_upsampler("carafe", 4, compressed_channels=3).double()
    torch.nn.init.normal_(layer.content_encoder.weight)
    x, mask = torch.randn(2, 4, 7, 9, dtype=torch.float64), masks().double()
    y, new_mask = MaskedUpsampler(layer, threshold=0.4)(x, mask)
    kernels = layer.kernels(x * mask)
    padded, inside = (torch.nn.functional.pad(m, (2, 2, 2, 2)) for m in (mask, torch.ones_like(mask)))
    for n, i, j in ((0, 0, 0), (0, 5, 8), (1, 7, 9), (1, 13, 17), (0, 9, 4)):
        kernel = kernels[n, :, i, j].view(5, 5)
        window = (slice(i // 2, i // 2 + 5), slice(j // 2, j // 2 + 5))
        share = (kernel * padded[n, 0][window]).sum() / (kernel * inside[n, 0][window]).sum()
        assert new_mask[n, 0, i, j] == float(share >= 0.4)
        plain = carafe(x * mask, kernels, 5)[n, :, i, j]
        torch.testing.assert_close(y[n, :, i, j], plain / share * float(share >= 0.4), **close(torch.float64))


def test_gradients_flow_through_masked_carafe():
    layer = build_upsampler("carafe", 2, compressed_channels=2, up_kernel=3).double()
    torch.nn.init.normal_(layer.content_encoder.weight, std=0.1)
    upsample, mask = MaskedUpsampler(layer), masks((4, 4)).double()[:1]
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *own: upsample(x, mask)[0], (x, *layer.parameters()))


def test_threshold_is_checked():
    with pytest.raises(ValueError, match="above 0"):
        MaskedUpsampler(build_upsampler("carafe", 4), threshold=0.0)


# Generators


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("name", ["global_local", "partial_unet"])
def test_generators_paint_with_every_upsampler(name, upsampler):
    generator = small_generator(name, upsampler)
    hole = torch.zeros(2, 1, 32, 40)
    hole[:, :, 5:20, 5:20] = 1
    painted = generator(torch.randn(2, 3, 32, 40), hole)
    assert painted.shape == (2, 3, 32, 40) and painted.abs().max() <= 1
    painted.sum().backward()
    assert all(p.grad is not None for p in generator.parameters())


@pytest.mark.parametrize("name", ["global_local", "partial_unet"])
def test_models_do_not_look_into_the_hole(name):
    model = small_model(name).eval()
    mine = item()
    other = mine | {"image": torch.where(mine["hole"], 255 - mine["image"], mine["image"])}
    with torch.no_grad():
        (first,), (second,) = model([mine]), model([other])
    assert torch.equal(first["inpainted"][:, mine["hole"]], second["inpainted"][:, mine["hole"]])


def test_a_frozen_encoder_keeps_its_statistics():
    generator = PartialUNet(
        widths=(4, 5), upsampler=lambda c: build_upsampler("nearest", c), freeze_encoder_norm=True
    ).train()
    before = {name: value.clone() for name, value in generator.named_buffers()}
    generator(torch.randn(2, 3, 16, 16), torch.zeros(2, 1, 16, 16))
    changed = {name.split(".")[0] for name, value in generator.named_buffers() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}


# Discriminators and losses


def test_only_patches_on_the_hole_count():
    discriminator = PatchDiscriminator(widths=(4, 5))
    hole = torch.zeros(2, 1, 16, 16)
    hole[0, :, 4:8, 8:12] = 1
    scores = discriminator(torch.randn(2, 3, 16, 16), hole)
    assert scores.weights[0].nonzero().tolist() == [[0, 1, 2]] and scores.weights[0].sum() == 1
    assert scores.weights[1].sum() == 0  # a picture without a hole says nothing


def test_spectral_norm_is_a_choice():
    plain, normed = (PatchDiscriminator(widths=(4, 5), spectral=spectral) for spectral in (False, True))
    assert not any("parametrizations" in name for name in plain.state_dict())
    for layer in (normed.layers[0], normed.predictor):
        with torch.no_grad():
            for _ in range(50):
                layer.weight  # noqa: B018 - each look is a step of the power iteration
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        torch.testing.assert_close(norm, torch.ones(()), atol=1e-3, rtol=1e-3)


def test_the_local_square_lies_around_the_hole_and_in_the_picture():
    discriminator = GlobalLocalDiscriminator(
        size=(64, 64), local_size=32, global_widths=(4, 4), local_widths=(4, 4), features=8
    ).eval()
    image, hole = torch.randn(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    hole[..., 0:4, 40:64] = 1
    expected = discriminator.score(image, image[:, :, 0:32, 32:64])
    torch.testing.assert_close(discriminator(image, hole).logits[:, :, 0, 0], expected)
    with pytest.raises(ValueError, match=r"DISCRIMINATOR\.SIZE"):
        discriminator(image[..., 1:], hole[..., 1:])
    with pytest.raises(ValueError, match="multiples of 4"):
        GlobalLocalDiscriminator(size=(64, 66), local_size=32, global_widths=(4, 4), local_widths=(4, 4))


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_adversarial_losses_pull_in_opposite_directions(kind):
    discriminator = PatchDiscriminator(widths=(4,))
    hole = torch.ones(1, 1, 8, 8)
    real, fake = (discriminator(torch.randn(1, 3, 8, 8), hole) for _ in range(2))
    better = real._replace(logits=real.logits + 1), fake._replace(logits=fake.logits - 1)
    assert discriminator_loss(kind, *better) < discriminator_loss(kind, real, fake)
    assert generator_loss(kind, better[1]) > generator_loss(kind, fake)


def test_gram_matrices_are_means_of_products():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.einsum("nchw,ndhw->ncd", x, x) / (3 * 4 * 5)
    torch.testing.assert_close(gram_matrix(x), expected, **close(torch.float64))


# The model


@pytest.mark.parametrize("name", ["global_local", "partial_unet"])
def test_nothing_outside_the_hole_changes(name):
    model = small_model(name).eval()
    inputs = [item(), item(37, 45, seed=1)]  # sizes that are padded
    with torch.no_grad():
        outputs = model(inputs)
    for one, output in zip(inputs, outputs):
        result = output["inpainted"]
        assert result.dtype == torch.uint8 and result.shape == one["image"].shape
        assert torch.equal(result[:, ~one["hole"]], one["image"][:, ~one["hole"]])
        assert not torch.equal(result, one["image"])


def test_composites_are_exact_in_half_precision():
    image, painted = torch.randn(1, 3, 8, 8).half(), torch.randn(1, 3, 8, 8).half()
    hole = (torch.rand(1, 1, 8, 8) > 0.5).float()
    whole = composite(image, painted, hole)
    assert torch.equal(whole, torch.where(hole.bool(), painted, image))


@pytest.mark.parametrize("name", ["global_local", "partial_unet"])
def test_all_hole_and_no_hole_are_finite(name):
    model = small_model(name)
    for fill in (True, False):
        one = item() | {"hole": torch.full((32, 40), fill)}
        with EventStorage():
            losses = model.train()([one, one])
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        with torch.no_grad():
            result = model.eval()([one])[0]["inpainted"]
        assert fill or torch.equal(result, one["image"])


def test_each_network_learns_from_its_own_loss():
    model = small_model()
    with EventStorage():
        losses = model([item(), item(seed=1)])
    losses.pop("loss_discriminator").backward(retain_graph=True)
    assert not any(p.grad is not None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.discriminator.parameters())
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.generator.parameters())
    assert not any(p.grad is not None for p in model.discriminator.parameters())


def test_the_adversary_joins_later():
    model = small_model(adversary_after=3)
    for iteration, expected in ((2, False), (3, True)):
        model.begin_iteration(Progress(iteration, 10))
        with EventStorage():
            losses = model([item(), item(seed=1)])
        for name in ("loss_adversarial", "loss_discriminator"):
            assert bool(losses[name] != 0) == expected
        model.zero_grad()
        sum(losses.values()).backward()  # every parameter has a gradient, as several processes need
        assert all(p.grad is not None for p in model.parameters())
        assert any(p.grad.any() for p in model.discriminator.parameters()) == expected


def test_losses_of_a_batch_are_the_means_of_its_parts():
    """So that several processes learn what one would; without BatchNorm, whose statistics are of one process."""
    model = small_model()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    inputs = [item(seed=seed) for seed in range(4)]
    inputs[1]["hole"] = inputs[1]["hole"].flip(1)
    inputs[2]["hole"] = torch.zeros_like(inputs[2]["hole"])
    model.discriminator.eval()  # no step of the power iteration
    with EventStorage(), torch.no_grad():
        whole, first, second = model(inputs), model(inputs[:2]), model(inputs[2:])
    for name, value in whole.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, **close(torch.float32))


def test_what_does_not_fit_is_named():
    model = small_model()
    with pytest.raises(ValueError, match="InpaintingMapper"):
        model([{"image": item()["image"]}])
    with pytest.raises(ValueError, match="height, width"):
        model([item() | {"hole": torch.zeros(8, 8)}])
    with EventStorage(), pytest.raises(ValueError, match=r"INPUT\.CROP"):
        model([item(), item(48, 48)])
