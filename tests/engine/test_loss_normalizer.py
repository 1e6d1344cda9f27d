"""RetinaNet's losses are divided by an average that a resumed run has to know."""

import pytest
import torch

from densekit.d2.modeling import build_model
from densekit.engine import Trainer, setup
from densekit.engine.loss_normalizer import LossNormalizer, has_loss_normalizer

DETECTOR = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"]
DETECTOR += ["MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]]
DETECTOR += ["MODEL.ANCHOR_GENERATOR.SIZES", [[16], [24], [32], [48], [64]], "MODEL.MASK_ON", False]
DETECTOR += ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 3]


def trained(arguments, folder, resume=False):
    trainer = Trainer(setup(arguments(*DETECTOR, "OUTPUT_DIR", str(folder), resume=resume)))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return torch.load(folder / "model_final.pth", weights_only=True)


def test_a_resumed_run_divides_by_the_same_average(arguments, tmp_path):
    whole = trained(arguments, tmp_path / "whole")
    kept = torch.load(tmp_path / "whole" / "model_0000002.pth", weights_only=True)
    assert kept["loss_normalizer"]["value"] != 100 and not any("normalizer" in name for name in kept["model"])
    (tmp_path / "resumed").mkdir()
    for name in ("model_0000002.pth", "model_0000002.pth.sha256"):
        if (tmp_path / "whole" / name).exists():
            (tmp_path / "resumed" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000002.pth")
    resumed = trained(arguments, tmp_path / "resumed", resume=True)
    assert resumed["loss_normalizer"] == whole["loss_normalizer"] != kept["loss_normalizer"]
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())


@pytest.mark.parametrize("state", [{}, {"value": 37.25}])
def test_a_model_before_its_first_step_takes_what_there_is(arguments, state, tmp_path):
    model = build_model(setup(arguments(*DETECTOR, "OUTPUT_DIR", str(tmp_path))))
    assert has_loss_normalizer(model) and not has_loss_normalizer(torch.nn.Linear(1, 1))
    normalizer = LossNormalizer(model)
    before = normalizer.state_dict()
    normalizer.load_state_dict(state)
    assert normalizer.state_dict() == (state or before)
