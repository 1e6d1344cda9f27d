"""Weights & Biases and MLflow by stand-ins that note what they are told."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from densekit.d2.config import CfgNode
from densekit.d2.engine import HookBase
from densekit.d2.utils.events import EventStorage
from densekit.engine import run
from densekit.engine.run_folder import RunFolder
from densekit.engine.trackers import MLflowWriter, build_trackers
from densekit.engine.trainer import Trainer


@pytest.fixture
def calls(monkeypatch) -> list:
    """What the stand-ins are told: (function, arguments)."""
    noted: list = []
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)

    def note(name, result=None):
        def function(*args, **kwargs):
            noted.append((name, args, kwargs))
            return result

        return function

    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    tracked = SimpleNamespace(log=note("log"), define_metric=note("define_metric"), finish=note("finish"))
    wandb.init = note("init", tracked)
    for name in ("set_tracking_uri", "set_experiment", "set_tags", "log_params", "log_metrics", "end_run"):
        setattr(mlflow, name, note(name))
    mlflow.start_run = note("start_run", SimpleNamespace(info=SimpleNamespace(run_id="abc")))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return noted


def told(calls: list, name: str) -> list:
    return [(args, kwargs) for function, args, kwargs in calls if function == name]


def test_wandb_gets_the_run_with_its_config_and_stays_offline(arguments, tmp_path, calls):
    opts = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "WRITERS", "['tensorboard', 'wandb']")
    run(arguments(*opts))
    ((_, how),) = told(calls, "init")
    assert how["mode"] == "offline" and how["dir"] == str(tmp_path / "out") and how["name"] == "out"
    assert how["config"]["SOLVER"]["MAX_ITER"] == 2 and type(how["config"]["MODEL"]) is dict
    logged = [args[0] for args, _ in told(calls, "log")]
    assert [values["iteration"] for values in logged] == sorted(values["iteration"] for values in logged)
    assert {"total_loss", "bbox/AP", "lr"} <= set().union(*logged)
    assert told(calls, "define_metric") == [(("*",), {"step_metric": "iteration"})]
    assert told(calls, "finish") == [((), {"exit_code": 0})]
    run(arguments("SOLVER.MAX_ITER", 3, *opts[2:], resume=True))
    (_, again) = told(calls, "init")[1]
    assert again["id"] == how["id"] == RunFolder(tmp_path / "out").facts["run_id"] and again["resume"] == "allow"


def test_the_users_own_settings_of_wandb_count(arguments, calls, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "cells")
    run(arguments("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()", "WRITERS", "['wandb']"))
    ((_, how),) = told(calls, "init")
    assert how["mode"] == "online" and how["project"] == "cells"


def test_mlflow_gets_numbers_it_can_store_and_goes_on_with_its_run(arguments, tmp_path, calls, monkeypatch):
    cfg = CfgNode({"OUTPUT_DIR": str(tmp_path), "SOLVER": {"AMP": {"ENABLED": False}, "STEPS": (2, 3)}})
    folder = RunFolder(tmp_path)
    folder.begin()
    for resumed in (False, True):
        writer = MLflowWriter(cfg, folder)
        with EventStorage() as storage:
            storage.put_scalar("[metric]grad_scaler", 2.0, smoothing_hint=False)
            storage.put_scalar("bbox/AP-two words", math.nan, smoothing_hint=False)
            storage.put_scalar("bbox/AP", 5.0, smoothing_hint=False)
            writer.write()
        writer.close()
        _, how = told(calls, "start_run")[-1]
        assert how == {"run_id": "abc", "run_name": None} if resumed else how["run_id"] is None
    assert told(calls, "log_metrics")[0] == (({"_metric_grad_scaler": 2.0, "bbox/AP": 5.0},), {"step": 0})
    assert told(calls, "set_tracking_uri")[0][0] == (f"sqlite:///{tmp_path}/mlflow.db",)
    assert told(calls, "set_experiment") == [(("densekit",), {})]
    params = {"OUTPUT_DIR": str(tmp_path), "SOLVER.AMP.ENABLED": False, "SOLVER.STEPS": (2, 3)}
    assert told(calls, "log_params") == [((params,), {})]  # once
    assert told(calls, "end_run") == [(("FINISHED",), {})] * 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    MLflowWriter(cfg, folder)
    assert len(told(calls, "set_tracking_uri")) == 2


@pytest.mark.parametrize(
    ("ending", "status"), [(FloatingPointError("NaN"), "FAILED"), (SystemExit(75), "KILLED"), (None, "FINISHED")]
)
def test_both_are_told_how_a_training_ends(arguments, calls, monkeypatch, ending, status):
    class Breaking(HookBase):
        def after_step(self):
            if ending is not None and self.trainer.iter == 1:
                self.trainer.write_metrics()
                raise ending

    hooks = Trainer.build_hooks
    monkeypatch.setattr(Trainer, "build_hooks", lambda self: [*hooks(self), Breaking()])
    opts = ("SOLVER.MAX_ITER", 3, "DATASETS.TEST", "()", "WRITERS", "['mlflow', 'wandb']")
    if ending is None:
        run(arguments(*opts))
    else:
        with pytest.raises((FloatingPointError, SystemExit)):
            run(arguments(*opts))
    assert told(calls, "end_run") == [((status,), {})]
    assert told(calls, "finish") == [((), {"exit_code": int(ending is not None)})]


def test_nothing_begins_before_there_is_something_to_write(tmp_path, calls):
    cfg = SimpleNamespace(OUTPUT_DIR=str(tmp_path), WRITERS=["wandb", "mlflow", "wandb"])
    writers = build_trackers(cfg, RunFolder(tmp_path))
    assert len(writers) == 2
    for writer in writers:
        writer.close()
    assert calls == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("wandb", "WRITERS has 'wandb', which cannot be imported"), ("tensorbord", "it can name tensorboard, wandb")],
)
def test_what_is_not_there_is_an_error_before_the_training(arguments, monkeypatch, capsys, name, message):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(SystemExit) as stop:
        run(arguments("SOLVER.MAX_ITER", 1, "WRITERS", f"['{name}']"))
    assert stop.value.code == 2 and message in capsys.readouterr().err
