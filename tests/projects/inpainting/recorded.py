"""Checks recorded files of inpainting: ``python -m tests.projects.inpainting.recorded FILE``.

Sizes, widths and options come from the file. What of the file is read nowhere is listed with its reason, and is a
failure without one.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers import build_upsampler
from densekit.layers.partial_conv import PartialConv2d
from densekit.projects.inpainting.discriminators import GlobalLocalDiscriminator
from densekit.projects.inpainting.global_local import GlobalLocal
from densekit.projects.inpainting.losses import (
    ADVERSARIAL,
    composite,
    gram_matrix,
    perceptual_loss,
    pixel_losses,
    style_loss,
    total_variation,
)
from densekit.projects.inpainting.partial_unet import PartialUNet
from densekit.projects.inpainting.vgg import VGGFeatures
from densekit.projects.inpainting.weights import GLOBAL_LOCAL, GLOBAL_LOCAL_DISCRIMINATOR, PARTIAL_UNET
from densekit.weights.renaming import Rule
from tests.recorded_cases import Cases, main

TOLERANCE = 1e-4
_SPREAD = 6.0  # standard errors by which the moments of two fresh initialisations may differ

NOT_CHECKED = {
    "about": "text",
    "source": "text",
    "note": "text",
    "order": "text: the order of convolution, ReLU and BatchNorm, which the outputs check",
}
Line = tuple[str, float, float]  # case, worst difference, tolerance


class Case(Mapping[str, Any]):
    """A dictionary of the file that knows which of its keys were read."""

    def __init__(self, content: Mapping[str, Any], name: str = "") -> None:
        self._content, self.name = content, name
        self._read: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        value = self._content[key]
        if key not in self._read:
            nested = isinstance(value, dict) and any(isinstance(one, dict) for one in value.values())
            self._read[key] = Case(value, f"{self.name}/{key}") if nested else value
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def unread(self) -> list[str]:
        """The paths of what was not read."""
        missing = [f"{self.name}/{key}" for key in self._content if key not in self._read]
        return missing + [path for value in self._read.values() if isinstance(value, Case) for path in value.unread()]


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Compares every part of a file; a key that nothing reads and that has no reason is a failure."""
    file = Case(recorded)
    torch.manual_seed(0)  # of the fresh initialisations
    for name in file:
        checker = next((checker for prefix, checker in CHECKERS.items() if name.startswith(prefix)), None)
        for case, worst, tolerance in checker(file, name) if checker else ():
            cases.close(case, worst, 0.0, atol=tolerance, rtol=0.0)
    for key in file.unread():
        reason = NOT_CHECKED.get(key.rsplit("/", 1)[-1])
        if reason is None:
            cases.equal(f"{key.lstrip('/')}: who reads it", "nobody", "somebody")
        else:
            cases.not_checked(key.lstrip("/"), reason)


def rename(weights: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, Any]:
    """Entries under the names of the models here.

    Raises:
        KeyError: no rule fits a name.
    """
    renamed = {}
    for name, value in weights.items():
        match, new = next(((m, new) for old, new in rules if (m := re.fullmatch(old, name))), (None, None))
        if match is None:
            raise KeyError(f"No rule knows the parameter {name!r}.")
        if new is not None:
            renamed[match.expand(new)] = value
    return renamed


def difference(mine: Any, theirs: Any) -> float:
    """The largest difference, beside 1 or the size of the numbers."""
    mine, theirs = (torch.as_tensor(x, dtype=torch.float64) for x in (mine, theirs))
    if mine.shape != theirs.shape:
        return float("inf")
    return float(((mine - theirs).abs() / theirs.abs().clamp(min=1)).max()) if mine.numel() else 0.0


def probe(outputs: list[Tensor]) -> Tensor:
    """The scalar that the file derives from outputs without a loss."""
    total = outputs[0].new_zeros(())
    for index, output in enumerate(outputs):
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(123 + index))
        total = total + (output * weights).mean()
    return total


def full(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _partial_convs(file: Case, key: str) -> Iterator[Line]:
    for name in file[key]:
        case = file[key][name]
        options = dict(case["kw"])
        several, returns = options.pop("multi_channel"), options.pop("return_mask")
        kernel = options.pop("kernel_size")
        mask = case["mask"]
        if mask is None and several:
            mask = torch.ones_like(case["x"])
        for dtype, wanted in ((torch.float32, "y"), (torch.float64, "y_f64")):
            layer = PartialConv2d(case["cin"], case["cout"], kernel, **options).to(dtype)
            layer.load_state_dict({k: v.to(dtype) for k, v in case["state_dict"].items()})
            x = case["x"].to(dtype).requires_grad_()
            y, new_mask = layer(x, mask)
            yield f"{key}/{name}/{wanted}", difference(y.detach(), case[wanted]), TOLERANCE
            if dtype == torch.float32:
                probe([y]).backward()
                yield f"{key}/{name}/gx", difference(x.grad, case["gx"]), TOLERANCE
                yield f"{key}/{name}/gw", difference(layer.weight.grad, case["gw"]), TOLERANCE
                if case["gb"] is not None:
                    yield f"{key}/{name}/gb", difference(layer.bias.grad, case["gb"]), TOLERANCE
                yield f"{key}/{name}/update_mask", difference(new_mask, case["update_mask"]), 0.0
                if case["new_mask"] is not None and returns:
                    yield f"{key}/{name}/new_mask", difference(new_mask, case["new_mask"]), 0.0
                yield from _ratios(f"{key}/{name}", layer, case, mask)


def _ratios(name: str, layer: PartialConv2d, case: Mapping[str, Any], mask: Tensor | None) -> Iterator[Line]:
    """Window over mask, as what the layer multiplies an input of ones under weights of ones by."""
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    ones = PartialConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, bias=False, **options)
    nn.init.ones_(ones.weight)
    valid = torch.ones(1, *case["x"].shape[1:])
    y = ones(valid if mask is None else valid.expand(len(mask), -1, -1, -1), mask)[0]
    counted = F.conv2d(valid if mask is None else valid * mask, ones.weight, None, **options)
    of_all = case["mask_ratio"].shape[1]
    ratio = torch.where(counted > 0, y / counted.clamp(min=1), 0.0)[: len(case["mask_ratio"]), :of_all]
    yield f"{name}/mask_ratio", difference(ratio.detach(), case["mask_ratio"]), TOLERANCE
    height, width = ((side - 1) * rate + 1 for side, rate in zip(layer.kernel_size, layer.dilation))
    window = torch.ones(1, layer.in_channels, height, width)
    whole = F.conv2d(window, ones.weight[:1], dilation=layer.dilation)  # of one mask for all channels, each of these
    counted_once = whole / (layer.in_channels if of_all == 1 else 1)
    yield f"{name}/slide_winsize", difference(counted_once.detach().squeeze(), case["slide_winsize"]), TOLERANCE


def _stack(file: Case, key: str) -> Iterator[Line]:
    case = file[key]
    weights = full(case["state_dict"])
    layers = nn.ModuleDict()
    for name in "abcd":
        shape = weights[f"{name}.weight"].shape
        # The strides follow from the sizes of the outputs.
        layers[name] = PartialConv2d(
            shape[1], shape[0], shape[2], padding=shape[2] // 2, bias=f"{name}.bias" in weights, stride=_STRIDES[name]
        )
    layers.load_state_dict(weights)
    x, mask = case["x"], case["mask"]
    a, mask_a = layers["a"](x, mask)
    b, mask_b = layers["b"](F.relu(a), mask_a)
    c, mask_c = layers["c"](F.relu(b), mask_b)
    size = b.shape[2:]
    up = F.interpolate(F.leaky_relu(c, 0.2), size=size, mode="nearest")
    up_mask = F.interpolate(mask_c, size=size, mode="nearest")
    d, mask_d = layers["d"](torch.cat([up, b], dim=1), torch.cat([up_mask, mask_b], dim=1))
    outputs, masks = [a, b, c, d], [mask_a, mask_b, mask_c, mask_d]
    for index, (mine, wanted) in enumerate(zip(outputs, case["outs"])):
        yield f"{key}/outs/{index}", difference(mine.detach(), wanted), TOLERANCE
        yield f"{key}/masks/{index}", difference(masks[index], case["masks"][index]), 0.0
    probe(outputs).backward()
    yield from gradients(key, case["grads"], None, layers)


_STRIDES = {"a": 2, "b": 1, "c": 2, "d": 1}  # as the file's note says


def gradients(key: str, wanted: Mapping[str, Any], rules: list[Rule] | None, *models: nn.Module) -> Iterator[Line]:
    """Sums and L2 norms of gradients; names go through ``rules``, which leave out what is not trained.

    Args:
        key: of the case.
        wanted: parameter -> its moments.
        rules: None where the names are those of the models.
        models: after their backward pass; a second one is the same in double precision. Gradients of maps of a few
            pixels behind BatchNorm are ill-conditioned, and the file's are of single precision: the nearer of the two
            counts, and what they differ by is the noise that is allowed.
    """
    named = dict(wanted) if rules is None else rename(dict(wanted), rules)
    worst = noise = 0.0
    for name, moments in named.items():
        found = [torch.stack([grad.sum(), grad.norm()]) for grad in (m.get_parameter(name).grad for m in models)]
        worst = max(worst, min(difference(each, moments) for each in found))
        noise = max(noise, difference(found[0], found[-1]))
    yield f"{key}/grads", worst, max(TOLERANCE, noise)


def _closing(file: Case, key: str) -> Iterator[Line]:
    masks = file[key]["masks"]
    layer = PartialConv2d(1, 1, 3, padding=1)
    mask = masks[0].float()
    for index, wanted in enumerate(masks[1:], start=1):
        mask = layer(torch.zeros_like(mask), mask)[1]
        yield f"{key}/masks/{index}", difference(mask, wanted), 0.0


def _vgg_loss(file: Case, key: str) -> Iterator[Line]:
    case = file[key]
    vgg = VGGFeatures(full(case["vgg_features"]))
    output, target = case["output"].clone().requires_grad_(), case["target"]
    # The authors compare normalised pictures in all terms.
    mine, truth = ((x - vgg.mean) / vgg.std for x in (output, target))
    with_features, of_truth = vgg.of_normalised(mine), vgg.of_normalised(truth)
    perceptual = case["perceptual_alpha"] * perceptual_loss(with_features, of_truth)
    style = case["style_alpha"] * style_loss(with_features, of_truth)
    base = case["l1_alpha"] * pixel_losses(mine, truth, torch.ones_like(mine[:, :1]))["l1"] + perceptual + style
    smooth = total_variation(mine)
    total = base + case["smooth_alpha"] * smooth
    yield f"{key}/vgg", difference(perceptual.detach(), case["vgg"]), TOLERANCE
    yield f"{key}/style", difference(style.detach(), case["style"]), TOLERANCE
    yield f"{key}/total", difference(total.detach(), case["total"]), TOLERANCE
    for alpha, wanted in case["totals_smooth"].items():
        yield f"{key}/totals_smooth/{alpha}", difference((base + alpha * smooth).detach(), wanted), TOLERANCE
    yield f"{key}/gram_of_output", difference(gram_matrix(case["output"]), case["gram_of_output"]), TOLERANCE
    total.backward()
    yield f"{key}/grad", difference(output.grad, case["grad"]), TOLERANCE


def load(model: nn.Module, weights: Mapping[str, Tensor], rules: list[Rule]) -> None:
    """Loads weights in another vocabulary with nothing missing."""
    named = rename(full(weights), rules)
    model.load_state_dict(named)


def _unet(file: Case, key: str) -> Iterator[Line]:
    case = file[key]
    weights, options = case["state_dict"], case["kw"]
    widths = [weights[f"enc_{level}.conv.input_conv.weight"].shape[0] for level in range(1, options["layer_size"] + 1)]
    mode = options.get("upsampling_mode", "nearest")
    model = PartialUNet(
        widths=widths,
        upsampler=lambda channels: build_upsampler(mode, channels),
        rescale=False,
        freeze_encoder_norm=case["freeze_enc_bn"],
    )
    yield from _moments(key, model, case["init_stats"], PARTIAL_UNET)
    load(model, weights, PARTIAL_UNET)
    vgg = VGGFeatures(full(file["nv_vgg_loss"]["vgg_features"]))
    x, truth, hole = case["x"], case["gt"], 1 - case["mask"].float()
    with torch.no_grad():
        y, mask = model.eval().with_mask(x, hole)
    yield f"{key}/y", difference(y, case["y"]), TOLERANCE
    yield f"{key}/mask_out", difference(mask, case["mask_out"]), 0.0
    yield from _unet_losses(f"{key}/losses", vgg, (x, y, truth, hole), case["losses"], case["weights"])[0]
    double = copy.deepcopy(model).double().train()
    y = model.train()(x, hole)
    yield f"{key}/y_train", difference(y.detach(), case["y_train"]), TOLERANCE
    lines, total = _unet_losses(f"{key}/train_losses", vgg, (x, y, truth, hole), case["train_losses"], case["weights"])
    yield from lines
    yield f"{key}/total_train", difference(total.detach(), case["total_train"]), TOLERANCE
    total.backward()
    pictures = [x.double(), double(x.double(), hole.double()), truth.double(), hole.double()]
    _unet_losses(key, vgg.double(), pictures, case["train_losses"], case["weights"])[1].backward()
    yield from gradients(key, case["grads"], PARTIAL_UNET, model, double)
    yield _buffers(key, model, case["buffers_after_train"], PARTIAL_UNET)


def _unet_losses(
    key: str, vgg: VGGFeatures, pictures: Sequence[Tensor], wanted: Mapping[str, float], factors: Mapping[str, float]
) -> tuple[list[Line], Tensor]:
    """The five terms, and their weighted sum."""
    x, y, truth, hole = pictures
    whole = composite(x, y, hole)
    features = [vgg.of_normalised(image) for image in (y, whole, truth)]
    terms = pixel_losses(y, truth, hole) | {
        "prc": perceptual_loss(features[0], features[2]) + perceptual_loss(features[1], features[2]),
        "style": style_loss(features[0], features[2]) + style_loss(features[1], features[2]),
        "tv": total_variation(whole),
    }
    lines = [(f"{key}/{name}", difference(terms[name].detach(), wanted[name]), TOLERANCE) for name in wanted]
    return lines, torch.stack([factor * terms[name] for name, factor in factors.items()]).sum()


def _buffers(key: str, model: nn.Module, wanted: Mapping[str, Tensor], rules: list[Rule]) -> Line:
    named = rename(dict(wanted), rules)
    worst = max(difference(model.get_buffer(name), value) for name, value in named.items())
    return f"{key}/buffers_after_train", worst, TOLERANCE


def _moments(key: str, model: nn.Module, wanted: Mapping[str, Any], rules: list[Rule]) -> Iterator[Line]:
    """Means and deviations of a fresh model's tensors, in standard errors of the two draws."""
    state, worst = model.state_dict(), 0.0
    for name, (mean, std, low, high, count) in rename(dict(wanted), rules).items():
        values = state[name].double()
        if values.numel() != count:
            worst = float("inf")
        elif std == 0:
            worst = max(worst, float((values - mean).abs().max()) * _SPREAD / TOLERANCE)
        elif count >= 50:  # fewer say nothing about their deviation
            error = std / count**0.5
            worst = max(
                worst, abs(float(values.mean()) - mean) / error / 2**0.5, abs(float(values.std()) - std) / error
            )
            # A uniform initialisation ends at 1.73 deviations, which a normal one goes beyond.
            is_uniform = max(-low, high) < 1.9 * std, float(values.abs().max()) < 1.9 * float(values.std())
            if count >= 200 and is_uniform[0] != is_uniform[1]:
                worst = float("inf")
    yield f"{key}/init_stats", worst, _SPREAD


def _layer_without_window(file: Case, key: str) -> Iterator[Line]:
    case = file[key]
    weights = full(case["state_dict"])
    shape = weights["input_conv.weight"].shape
    layer = PartialConv2d(shape[1], shape[0], shape[2], padding=shape[2] // 2, rescale=False)
    layer.load_state_dict({name: weights[f"input_conv.{name}"] for name in ("weight", "bias")})
    y, mask = layer(case["x"], case["mask"])
    yield f"{key}/y", difference(y.detach(), case["y"]), TOLERANCE
    yield f"{key}/new_mask", difference(mask, case["new_mask"]), 0.0


def _global_local(file: Case, key: str) -> Iterator[Line]:
    case = file[key]
    weights = case["state_cn"]
    widths = [weights[f"conv{number}.weight"].shape[0] for number in (1, 2, 4, 16)]
    model = GlobalLocal(widths=widths)
    yield from _moments(key, model, case["init_stats"], GLOBAL_LOCAL)
    load(model, weights, GLOBAL_LOCAL)
    x, hole = case["x"], case["hole"]
    filled = composite(x, case["mpv"].expand_as(x), hole)
    yield f"{key}/input", difference(torch.cat([filled, hole], dim=1), case["input"]), TOLERANCE
    with torch.no_grad():
        out = model.eval()(filled, hole)
    yield f"{key}/out", difference(out, case["out"]), TOLERANCE
    yield f"{key}/mse_loss_eval", difference(pixel_losses(out, x, hole)["mse"], case["mse_loss_eval"]), TOLERANCE
    double = copy.deepcopy(model).double().train()
    trained = model.train()(filled, hole)
    loss = pixel_losses(trained, x, hole)["mse"]
    yield f"{key}/out_train", difference(trained.detach(), case["out_train"]), TOLERANCE
    yield f"{key}/mse_loss_train", difference(loss.detach(), case["mse_loss_train"]), TOLERANCE
    loss.backward()
    pixel_losses(double(filled.double(), hole.double()), x.double(), hole.double())["mse"].backward()
    yield from gradients(key, case["grads"], GLOBAL_LOCAL, model, double)
    yield _buffers(key, model, case["buffers_after_train"], GLOBAL_LOCAL)
    for name in case:
        if name.startswith("disc"):
            yield from _discriminator(f"{key}/{name}", case[name], out, x)


def _discriminator(key: str, case: Mapping[str, Any], fake: Tensor, real: Tensor) -> Iterator[Line]:
    top, bottom, left, right = map(int, re.findall(r"\d+", case["local_crop"]))
    weights = case["state_cd"]
    widths = {
        tower: [
            weights[f"model_{tower}.conv{i}.weight"].shape[0]
            for i in range(1, 99)
            if f"model_{tower}.conv{i}.weight" in weights
        ]
        for tower in ("gd", "ld")
    }
    model = GlobalLocalDiscriminator(
        size=tuple(fake.shape[2:]),
        local_size=bottom - top,
        global_widths=widths["gd"],
        local_widths=widths["ld"],
        features=weights["linear1.weight"].shape[1] // 2,
    ).eval()
    load(model, weights, GLOBAL_LOCAL_DISCRIMINATOR)
    with torch.no_grad():
        logit = model.score(fake, fake[:, :, top:bottom, left:right])
    yield f"{key}/logit", difference(logit, case["logit"]), TOLERANCE
    yield f"{key}/disc", difference(logit.sigmoid(), case["disc"]), TOLERANCE
    for_real, for_fake, _ = ADVERSARIAL["vanilla"]
    yield f"{key}/loss_fake", difference(for_fake(logit).mean(), case["loss_fake"]), TOLERANCE
    yield f"{key}/loss_real", difference(for_real(logit).mean(), case["loss_real"]), TOLERANCE


def _counts(file: Case, key: str) -> Iterator[Line]:
    counts, size = file[key], lambda model: sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        unet = PartialUNet(
            widths=(64, 128, 256, 512, 512, 512, 512), upsampler=lambda channels: build_upsampler("nearest", channels)
        )
        generator = GlobalLocal()
        celeba = GlobalLocalDiscriminator(size=(160, 160), local_size=96, global_widths=(64, 128, 256, 512, 512))
        places = GlobalLocalDiscriminator(size=(256, 256), local_size=128)
    convs = [m for m in unet.modules() if isinstance(m, PartialConv2d)]
    own = {
        "glcic_completion": size(generator),
        "glcic_disc_celeba_160": size(celeba),
        "glcic_disc_places2_256": size(places),
        "pconv_unet_trained": size(unet),
        # The windows of ones, of the size of the weights, that the re-implementation counts too.
        "pconv_unet_all": size(unet) + sum(conv.weight.numel() for conv in convs),
    }
    for name in counts:
        yield f"{key}/{name}", difference(own.get(name, 0), counts[name]), 0.0


def _manifest(
    make: Callable[[Mapping[str, Any]], nn.Module], rules: list[Rule]
) -> Callable[[Case, str], Iterator[Line]]:
    def checker(file: Case, key: str) -> Iterator[Line]:
        manifest = dict(file[key])
        with torch.device("meta"):
            state = make(manifest).state_dict()
        named = {name: tuple(shape) for name, shape in rename(manifest, rules).items()}
        own = {name: tuple(value.shape) for name, value in state.items()}
        yield key, float(len(set(named.items()) ^ set(own.items()))), 0.0

    return checker


def _unet_of(manifest: Mapping[str, Any]) -> nn.Module:
    levels = sum(bool(re.fullmatch(r"enc_\d+\.conv\.input_conv\.weight", name)) for name in manifest)
    widths = [manifest[f"enc_{level}.conv.input_conv.weight"][0] for level in range(1, levels + 1)]
    return PartialUNet(widths=widths, upsampler=lambda channels: build_upsampler("nearest", channels))


def _global_local_of(manifest: Mapping[str, Any]) -> nn.Module:
    return GlobalLocal(widths=[manifest[f"conv{number}.weight"][0] for number in (1, 2, 4, 16)])


# The beginning of a key of the file -> its checker.
CHECKERS: dict[str, Callable[[Case, str], Iterator[Line]]] = {
    "partialconv_stack": _stack,
    "partialconv": _partial_convs,
    "mask_closing": _closing,
    "nv_vgg_loss": _vgg_loss,
    "unet": _unet,
    "naoto_partialconv": _layer_without_window,
    "glcic": _global_local,
    "param_counts": _counts,
    "manifest_glcic": _manifest(_global_local_of, GLOBAL_LOCAL),
    "manifest_pconv_unet": _manifest(_unet_of, PARTIAL_UNET),
}

if __name__ == "__main__":
    main(check)
