"""Inpainting against the recorded outputs of published code, and the checker that does it."""

import pytest
import torch

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.weights.names import adapt_names
from tests.projects.inpainting.recorded import check
from tests.recorded_cases import assert_agrees, run


def test_recorded_cases(reference_dir):
    assert_agrees(check, reference_dir / "inpaint.pt")


def test_the_checker_tells_a_wrong_number_and_an_unknown_key(reference_dir, tmp_path):
    file = torch.load(reference_dir / "inpaint.pt")
    part = {"naoto_partialconv": file["naoto_partialconv"]}
    torch.save(part, tmp_path / "same.pt")
    assert not run(check, tmp_path / "same.pt").failures
    torch.save(part | {"novelty": {"y": torch.zeros(1)}}, tmp_path / "more.pt")
    assert "novelty" in run(check, tmp_path / "more.pt").failures[0]
    part["naoto_partialconv"]["y"][0, 0, 0, 0] += 1e-2
    torch.save(part, tmp_path / "other.pt")
    assert len(run(check, tmp_path / "other.pt").failures) == 1


@pytest.mark.parametrize(
    ("case", "key", "options"),
    [
        ("unet_l4", "state_dict", {"GENERATOR.NAME": "build_partial_unet_generator", "GENERATOR.UPSAMPLER": "nearest"}),
        ("glcic", "state_cn", {}),
    ],
)
def test_published_checkpoints_load_with_nothing_missing(reference_dir, case, key, options):
    weights = {name: value.float() for name, value in torch.load(reference_dir / "inpaint.pt")[case][key].items()}
    unet = case.startswith("unet")
    names = (
        [f"enc_{level}.conv.input_conv" for level in (1, 2, 3, 4)] if unet else ["conv1", "conv2", "conv4", "conv16"]
    )
    widths = [len(weights[f"{name}.weight"]) for name in names]
    options = options | {"GENERATOR.WIDTHS": str(widths), "DISCRIMINATOR.NAME": ""}
    pairs = [word for name, value in options.items() for word in (f"MODEL.INPAINTING.{name}", value)]
    model = build_model(load_config("", ["MODEL.META_ARCHITECTURE", "Inpainter", "MODEL.DEVICE", "cpu", "INPUT.FORMAT",
                                         "RGB", *pairs]))  # fmt: skip
    adapted = adapt_names({"model": weights}, model.state_dict())
    assert adapted.keys() == model.state_dict().keys()
    model.load_state_dict(adapted)
