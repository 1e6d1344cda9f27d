"""The measurements of ``--dry-run`` on configs of every folder, shrunken as for the other contract tests."""

import pytest
import torch

from densekit.engine import Trainer
from densekit.engine.dry_run import measure
from tests.contract.shrinking import CONFIGS, ROOT, folders, shrunken
from tests.contract.test_configs import sample


def families() -> list[str]:
    """The first config and the last of each folder; the files are named after the models."""
    chosen = set()
    for folder in folders():
        inside = [path for path in CONFIGS if path.parent.name == folder]
        chosen |= {inside[0], inside[-1]}
    return sorted(str(path.relative_to(ROOT / "configs")) for path in chosen)


@pytest.mark.parametrize("name", families())
def test_every_family_can_be_rehearsed(name, monkeypatch, tmp_path):
    cfg = shrunken(ROOT / "configs" / name)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.freeze()

    def endless():
        while True:
            yield [sample(cfg), sample(cfg)]

    monkeypatch.setattr(Trainer, "build_train_loader", classmethod(lambda cls, cfg: endless()))
    # What reads the data sets, of which there are none here.
    monkeypatch.setattr("densekit.engine.dry_run.largest_size", lambda cfg: (0, 0))
    monkeypatch.setattr("densekit.engine.dry_run._training_boxes", lambda cfg: (torch.zeros(0, 4), torch.zeros(0, 2)))
    needs = measure(cfg)
    assert needs.losses and needs.images[0] == 2
    # A backward pass is twice the forward; torch counts some gradients of depthwise convolutions at many times that.
    assert 1.5 < needs.step_flops / (2 * needs.forward_flops) < 12
    assert needs.weights > 0 and needs.optimizer > 0 and 0 < needs.gradients <= needs.weights
    assert sum(total for total, _ in needs.parameters.values()) * 4 <= needs.weights
    assert not (tmp_path / "out").exists()
