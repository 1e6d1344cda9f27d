"""Whole runs on a few pictures: train, stop, resume, evaluate, and what is refused on the way."""

import dataclasses
import json
import math
import os

import pytest
import torch

from densekit.checkpoint import Checkpointer
from densekit.config_defaults import default_config
from densekit.d2 import HOST
from densekit.d2.utils import comm
from densekit.engine import DataError, Trainer, precision, run, setup, user_errors
from densekit.engine.setup import read_config
from densekit.files.atomic import strict


def metrics(folder) -> list[dict]:
    """The lines of metrics.json; NaN and Infinity are errors."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.json").read_text().splitlines()]


def test_train_then_resume_then_evaluate(arguments, tmp_path):
    out = tmp_path / "out"
    run(arguments("SOLVER.MAX_ITER", 3))
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert {"model_0000001.pth", "model_final.pth", "config.yaml", "log.txt"} <= {path.name for path in out.iterdir()}
    saved = torch.load(out / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 2 and set(saved) >= {"model", "trainer", "iteration"}
    assert saved["trainer"]["_trainer"]["optimizer"]["param_groups"]

    lines = metrics(out)
    step = next(line for line in lines if line["iteration"] == 2)
    assert {"total_loss", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc", "lr", "data_time"} <= set(step)
    assert any("bbox/AP" in line for line in lines)

    first_config = (out / "config.yaml").read_text()
    assert first_config.startswith("# host: ") and torch.__version__ in first_config
    args = arguments("SOLVER.MAX_ITER", 5, resume=True)
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3
    assert trainer.scheduler.last_epoch == 3
    results = trainer.train()
    assert "AP" in results["bbox"]
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 4
    log = (out / "log.txt").read_text()
    assert "model_final.pth: 3 of 5 iterations are done" in log and "eta" in log

    again = run(arguments("MODEL.WEIGHTS", out / "model_final.pth", eval_only=True))
    assert strict(again) == strict(results)
    stored = json.loads((out / "inference" / "results.json").read_text())
    assert stored["tiny_val"]["bbox"]["AP"] == strict(again["bbox"]["AP"])
    assert (out / "inference" / "tiny_val" / "coco_instances_results.json").is_file()


def test_resume_without_a_checkpoint_says_so(arguments, tmp_path):
    run(arguments("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()", resume=True))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "there is no checkpoint" in log
    assert metrics(tmp_path / "out")[0]["iteration"] == 0


def test_resume_must_finds_a_checkpoint_or_stops(arguments, capsys):
    args = arguments("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")
    args = dataclasses.replace(args, resume="must")
    with pytest.raises(SystemExit):
        run(args)
    assert "--resume must: there is no checkpoint" in capsys.readouterr().err


def test_two_test_sets_have_two_folders(arguments, tmp_path):
    results = run(arguments("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "('tiny_val', 'tiny_train')"))
    assert list(results) == ["tiny_val", "tiny_train"]
    folder = tmp_path / "out" / "inference"
    counts = {}
    for name in results:
        counts[name] = {
            item["image_id"] for item in json.loads((folder / name / "coco_instances_results.json").read_text())
        }
    assert max(counts["tiny_val"]) == 5 and max(counts["tiny_train"]) == 6


def test_augmented_evaluation_has_its_own_names(arguments, tmp_path):
    aug = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.MAX_SIZE", 96]
    run(arguments("SOLVER.MAX_ITER", 1, *aug))
    names = set().union(*metrics(tmp_path / "out"))
    assert {"bbox/AP", "bbox_TTA/AP"} <= names


def test_a_loss_that_is_not_finite_names_the_images(arguments, tmp_path):
    trainer = Trainer(setup(arguments("SOLVER.MAX_ITER", 4)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with torch.no_grad():
        trainer.model.roi_heads.box_predictor.cls_score.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"(?s)Iteration 0.*loss_cls.*nan.*0000000\d\d.jpg"):
        trainer.train()
    after = trainer.model.state_dict()
    weights = [name for name, _ in trainer.model.named_parameters() if not name.endswith("cls_score.bias")]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert not list((tmp_path / "out").glob("*.pth"))
    metrics(tmp_path / "out")


# Refusals: exit code 2 and one message


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS 'nowhere.pth' does not exist"),
        (["OUTPUT_DIR", "/proc/none"], "OUTPUT_DIR '/proc/none' cannot be written"),
        (["DATASETS.TRAIN", "('tiny_trian',)"], "tiny_train"),
        (["INPUT.MAPPER", "Nobody"], "INPUT.MAPPER 'Nobody'"),
        (["TEST.AUG.ENABLED", True, "MODEL.KEYPOINT_ON", True], "does not work with MODEL.KEYPOINT_ON True."),
        (
            ["TEST.AUG.ENABLED", True, "MODEL.META_ARCHITECTURE", "ProposalNetwork"],
            "does not work with MODEL.META_ARCHITECTURE ProposalNetwork.",
        ),
        (["SOLVER.BASE_RL", "1"], "SOLVER.BASE_LR"),
    ],
)
def test_mistakes_end_in_one_message(arguments, capsys, tmp_path, opts, message):
    with pytest.raises(SystemExit) as stop:
        run(arguments(*opts))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not list(tmp_path.glob("out/*.pth"))


def test_traceback_on_request(arguments, monkeypatch):
    monkeypatch.setenv("DENSEKIT_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(arguments("MODEL.WEIGHTS", "nowhere.pth"))


def test_evaluation_without_weights_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        run(arguments(eval_only=True))
    assert "--eval-only needs weights" in capsys.readouterr().err


def test_a_picture_that_has_vanished_is_named_before_the_training(arguments, capsys, tiny_root, tmp_path):
    path = tiny_root / "coco" / "train2017" / "000000000003.jpg"
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(SystemExit) as stop:
            run(arguments("DATALOADER.NUM_WORKERS", 1))
    finally:
        path.write_bytes(content)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith(f"error: Image {path}")
    if HOST == "builtin":  # Detectron2's own loop logs the traceback
        assert "Traceback" not in shown.out + shown.err
    assert not list((tmp_path / "out").glob("model_*.pth"))


@pytest.mark.parametrize(
    ("dtype", "has_it", "reason"),
    [
        ("float16", True, "float16; SOLVER.AMP.DTYPE bfloat16"),
        ("bfloat16", False, "AVX-512 BF16"),
        ("bfloat16", True, ""),
    ],
)
def test_on_the_cpu_mixed_precision_is_that_of_the_processor(arguments, monkeypatch, dtype, has_it, reason):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: has_it)
    cfg, notes = read_config(arguments("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype, "MODEL.DEVICE", "cpu"))
    assert (not reason) == cfg.SOLVER.AMP.ENABLED
    assert [reason in note for note in notes] == [True] * bool(reason)


def test_a_processor_that_converts_every_number_does_not_compute_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not precision.computes_in_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert precision.computes_in_bfloat16()


def test_a_run_in_bfloat16_on_the_cpu_resumes_exactly(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: True)
    opts = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 4]
    ends = []
    for resume in (False, True):
        run(arguments(*opts, resume=resume))
        ends.append(torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"])
        (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert all(value.dtype is not torch.bfloat16 for value in ends[0].values())


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of a gradient scaler without CUDA
def test_mixed_precision_has_the_precision_of_the_config(arguments):
    cfg, _ = read_config(arguments())
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, "bfloat16"
    assert Trainer(cfg)._trainer.phases[0].precision is torch.bfloat16
    cfg.SOLVER.AMP.DTYPE = "half"
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE is 'half'"):
        Trainer(cfg)


def test_any_process_names_its_bad_data_and_one_the_mistakes_of_all(monkeypatch, capsys):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    for error, shown in (
        (DataError("Image 7.jpg is truncated."), "error: Image 7.jpg is truncated.\n"),
        (ValueError(), ""),
    ):
        with pytest.raises(SystemExit), user_errors():
            raise error
        assert capsys.readouterr().err == shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_the_default_falls_back_and_a_wish_is_refused(arguments, tiny_root):
    (tiny_root / "gpu.yaml").write_text("_BASE_: tiny.yaml\nMODEL: {DEVICE: cuda}\n")
    args = arguments("SOLVER.AMP.ENABLED", True)
    args = dataclasses.replace(args, config_file=str(tiny_root / "gpu.yaml"))
    cfg, notes = read_config(args)
    assert cfg.MODEL.DEVICE == "cpu" and not cfg.SOLVER.AMP.ENABLED and len(notes) == 2
    args = dataclasses.replace(args, opts=[*args.opts, "MODEL.DEVICE", "cuda"])
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE cuda: torch"):
        read_config(args)


# Weights


def test_weights_of_another_architecture_are_refused(arguments, tmp_path, capsys):
    import torchvision

    torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(SystemExit):
        run(arguments("MODEL.WEIGHTS", tmp_path / "other.pth"))
    error = capsys.readouterr().err
    assert "another architecture" in error and "not in the file" in error and "features" in error
    assert len(error.splitlines()) < 40


def test_weights_for_other_classes_load_but_for_the_last_layer(arguments, tmp_path, caplog):
    cfg = setup(arguments())
    model = Trainer.build_model(cfg)
    state = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(3, 16)
    state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(3)
    torch.save({"model": state}, tmp_path / "coarse.pth")
    Checkpointer(model, str(tmp_path)).load(str(tmp_path / "coarse.pth"))
    assert (model.backbone.bottom_up.stem.conv1.weight == 0.5).all()
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "roi_heads.box_predictor.cls_score.weight" in log and "file (3, 16), model (81, 16)" in log


def test_saving_is_atomic_on_either_host(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    saver = Checkpointer(model, str(tmp_path))
    saver.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def fail(data, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        saver.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "last_checkpoint", "model.pth"], HOST


def evaluate_in_each(args):
    model = torch.nn.BatchNorm1d(3)
    model.running_mean.fill_(1.0 + comm.get_rank())
    cfg = default_config()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(args.folder), ()
    Trainer.test(cfg, model)
    torch.save(model.running_mean, args.folder / f"{comm.get_rank()}.pth")


def test_processes_judge_the_running_averages_of_the_first(tmp_path, in_processes):
    in_processes(evaluate_in_each, 2, folder=tmp_path)
    assert [torch.load(tmp_path / f"{rank}.pth").tolist() for rank in range(2)] == [[1.0] * 3] * 2
