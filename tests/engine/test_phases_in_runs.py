"""Runs with phases, a teacher, samples of several pictures, and what changes on the way: resumed to the last bit."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from densekit.d2.modeling import build_model
from densekit.data import mapper
from densekit.engine import Trainer, run, setup
from tests.engine.toys import ToyAdversary, ToyMosaic

# Six pictures, two in a step: the last of two epochs begins with iteration 3.
RUN = ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()", "SOLVER.WARMUP_ITERS", 2]
RUN += ["MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.5]
ADVERSARY = [*RUN, "MODEL.META_ARCHITECTURE", "ToyAdversary"]


@pytest.fixture(autouse=True)
def mosaic(monkeypatch):
    monkeypatch.setitem(mapper.MAPPERS._obj_map, "ToyMosaic", ToyMosaic)


def final(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_same(one, other, where=""):
    """Compares nested containers; tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


def resumed(arguments, tmp_path, opts, after):
    """The end of a run that goes on from the checkpoint after so many iterations of the first one."""
    folder = tmp_path / f"after_{after}"
    shutil.copytree(tmp_path / "out", folder)
    (folder / "last_checkpoint").write_text(f"model_{after - 1:07d}.pth")
    torch.rand(3)
    run(arguments(*opts, "OUTPUT_DIR", folder, resume=True))
    return final(folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_adversary_resumes_exactly_through_what_changes_on_the_way(
    arguments, tmp_path, monkeypatch, workers, accumulate
):
    opts = [*ADVERSARY, "INPUT.MAPPER", "ToyMosaic", "DATALOADER.NUM_WORKERS", workers, "SOLVER.ACCUMULATE", accumulate]
    seen = []
    ordinary = ToyAdversary.forward

    def noting(self, batch, phase):
        seen.append((self.iteration, self.has_extra, [(sample["iteration"], len(sample["parts"])) for sample in batch]))
        return ordinary(self, batch, phase)

    monkeypatch.setattr(ToyAdversary, "forward", noting)
    run(arguments(*opts))
    whole = final(tmp_path / "out")
    assert {iteration for iteration, *_ in seen} == set(range(6))
    for iteration, has_extra, samples in seen:
        assert has_extra == (iteration >= 3)
        assert set(samples) == {(iteration, 1 if iteration >= 3 else 4)}
    assert whole["trainer"]["hooks"]["EpochNotes"] == {"epochs": [0, 1]}
    assert not any("discriminator" in name for name in whole["ema"]["tensors"])
    state = torch.load(tmp_path / "out" / "model_0000003.pth", weights_only=True)
    assert any("generator" in name for name in state["ema"]["tensors"])
    for after in (2, 4):
        assert_same(resumed(arguments, tmp_path, opts, after), whole)


def test_workers_and_this_process_make_the_same_mosaics(arguments, tmp_path, monkeypatch):
    ends = []
    for workers in (0, 2):
        folder = tmp_path / f"with_{workers}"
        run(arguments(*ADVERSARY, "INPUT.MAPPER", "ToyMosaic", "DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", folder))
        ends.append(final(folder)["model"])
    assert_same(*ends)


def test_a_student_resumes_beside_its_teacher_which_nobody_saves(arguments, tmp_path):
    cfg = setup(arguments("MODEL.META_ARCHITECTURE", "ToyStudent", "OUTPUT_DIR", tmp_path / "teacher"))
    torch.manual_seed(11)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "teacher.pth")
    opts = [*RUN, "MODEL.META_ARCHITECTURE", "ToyStudent", "MODEL.TEACHER.WEIGHTS", tmp_path / "teacher.pth"]
    trainer = Trainer(setup(arguments(*opts)))
    student, teacher = trainer.model, trainer.model.teacher.load()
    weights = torch.load(tmp_path / "teacher.pth", weights_only=True)["model"]
    assert_same(dict(teacher.state_dict()), dict(weights))
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert len(list(student.parameters())) == len(list(teacher.parameters()))
    assert {id(p) for p in student.parameters()}.isdisjoint(map(id, teacher.parameters()))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert_same(dict(teacher.state_dict()), dict(weights))
    whole = final(tmp_path / "out")
    assert whole["model"].keys() == weights.keys() == whole["ema"]["tensors"].keys()
    assert_same(resumed(arguments, tmp_path, opts, 2), whole)
    (tmp_path / "teacher.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"teacher\.pth"):
        Trainer(setup(arguments(*opts)))
    build_model(cfg).eval()([{"image": torch.zeros(3, 8, 8)}])  # no teacher is needed where nobody trains


def test_a_bad_step_is_replayed_phase_by_phase(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ToyAdversary, "poison", (3, "generator"))
    opts = [*ADVERSARY, "INPUT.MAPPER", "ToyMosaic", "SOLVER.ACCUMULATE", 2]
    with pytest.raises(SystemExit):
        run(arguments(*opts))
    assert "replay.sh" in capsys.readouterr().err
    box = tmp_path / "out" / "black_box" / "iter_0000003"
    args = arguments(*opts)
    args = dataclasses.replace(args, replay=str(box))
    run(args)
    shown = capsys.readouterr().out
    assert "phase discriminator" in shown and "phase generator" in shown and "not finite again" in shown
