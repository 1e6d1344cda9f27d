"""Several processes: two over gloo do what one does, and mistakes in starting them are named."""

import atexit
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from densekit.cli.arguments import parse_arguments
from densekit.cli.train import run_options
from densekit.d2.utils import comm
from densekit.engine import launch, run
from densekit.engine.launch import Place, place_from_environment

ROOT = Path(__file__).resolve().parents[2]


def start(tiny_root: Path, out: Path, *words: str, starter: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Runs train_net.py on the tiny data under COCO's names, in an environment without a launcher's variables."""
    outside = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "DENSEKIT_TRACEBACK")
    env = {key: value for key, value in os.environ.items() if key not in outside}
    env |= {"DETECTRON2_DATASETS": str(tiny_root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    names = ["DATASETS.TRAIN", "('coco_2017_train',)", "DATASETS.TEST", "('coco_2017_val',)"]
    command = [sys.executable, "-W", "ignore", *starter, str(ROOT / "train_net.py")]
    command += ["--config-file", str(tiny_root / "tiny.yaml"), "OUTPUT_DIR", str(out), *names, *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)


def predictions(folder: Path) -> list[tuple]:
    content = json.loads((folder / "coco_instances_results.json").read_text())
    return sorted(
        (p["image_id"], p["category_id"], round(p["score"], 5), *(round(v, 2) for v in p["bbox"])) for p in content
    )


def test_two_processes_do_what_one_does(tiny_root, tmp_path, arguments):
    done = start(tiny_root, tmp_path / "two", "--num-gpus", "2", "SOLVER.MAX_ITER", "2")
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two"
    assert "World size: 2" in (two / "log.txt").read_text()
    assert (two / "log.txt.rank1").is_file() and (two / "model_final.pth").is_file()
    lines = [json.loads(line) for line in (two / "metrics.json").read_text().splitlines()]
    assert {line["iteration"] for line in lines} == {1, 2}

    # An image that two processes both evaluate would have its predictions twice, a forgotten one none.
    run(arguments("MODEL.WEIGHTS", two / "model_final.pth", eval_only=True))
    one = predictions(tmp_path / "out" / "inference" / "tiny_val")
    assert {image for image, *_ in one} == {1, 2, 3, 4, 5}
    assert predictions(two / "inference" / "coco_2017_val") == one

    starter = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = ("--eval-only", "MODEL.WEIGHTS", str(two / "model_final.pth"))
    done = start(tiny_root, tmp_path / "run", *words, starter=starter)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in (tmp_path / "run" / "log.txt").read_text()
    assert predictions(tmp_path / "run" / "inference" / "coco_2017_val") == one


def test_a_mistake_in_several_processes_is_said_once(tiny_root, tmp_path):
    done = start(tiny_root, tmp_path / "out", "--num-gpus", "2", "MODEL.WEIGHTS", "nowhere.pth")
    assert done.returncode == 2
    assert done.stderr.count("error: MODEL.WEIGHTS 'nowhere.pth' does not exist") == 1
    assert "Traceback" not in done.stderr


def fail(args: SimpleNamespace) -> None:
    raise RuntimeError("a fault of the program")


def test_a_fault_in_a_worker_shows_its_own_traceback():
    with pytest.raises(SystemExit) as stop:
        launch(fail, run_options(parse_arguments(["--num-gpus", "2", "A", "1"])), "cpu")
    text = str(stop.value.code)
    assert "in fail" in text and "RuntimeError: a fault of the program" in text


# The ends of processes


class Witness:
    """Goes with the interpreter, and leaves a folder."""

    def __init__(self, folder: Path):
        self._leave, self._folder = os.mkdir, str(folder)

    def __del__(self):
        self._leave(self._folder)


def see_the_end(args: SimpleNamespace) -> None:
    atexit.register(os.mkdir, args.folder / f"handler{comm.get_rank()}")
    sys.witness = Witness(args.folder / f"shutdown{comm.get_rank()}")


def test_processes_end_without_the_interpreters_shutdown(tmp_path, in_processes):
    in_processes(see_the_end, 2, folder=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["handler0", "handler1"]


def test_a_process_of_torchrun_ends_with_the_job(tmp_path):
    program = f"""
from types import SimpleNamespace
from pathlib import Path
from densekit.engine import launch
from tests.engine.test_launch import see_the_end
launch(see_the_end, SimpleNamespace(num_gpus=1, num_machines=1, folder=Path({str(tmp_path)!r})), "cpu")
print("after")
"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env = {**os.environ, **place, "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, "after" in done.stdout) == (0, False), done.stderr
    assert os.listdir(tmp_path) == ["handler0"]


# Who started this process


def test_place_under_torchrun_and_slurm():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert place_from_environment(torchrun) == Place("torchrun", 5, 8, 1, 4)
    slurm = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
    slurm |= {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
    assert place_from_environment(slurm) == Place("SLURM", 3, 4, 1, 2)
    assert place_from_environment(slurm | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert place_from_environment({"RANK": "0"}) is None
    with pytest.raises(ValueError, match="4 tasks to 3 machines"):
        place_from_environment(slurm | {"SLURM_STEP_NUM_NODES": "3"})


@pytest.mark.parametrize("step", [None, "4294967291", "4294967290", "batch"])
def test_plain_python_in_a_batch_script_or_an_interactive_shell_is_no_srun_task(step):
    env = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
    if step is not None:
        env |= {"SLURM_STEP_ID": step, "SLURM_STEP_NUM_TASKS": "8"}
    assert place_from_environment(env) is None


@pytest.mark.parametrize(
    ("words", "device", "env", "message"),
    [
        (["--num-gpus", "4"], "cpu", {"LOCAL_WORLD_SIZE": "2"}, "torchrun has started 2 processes"),
        (["--num-gpus", "99"], "cuda", None, "99 processes need 99 GPUs"),
    ],
)
def test_contradictions_are_refused(monkeypatch, capsys, words, device, env, message):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **env}.items() if env else ():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit) as stop:
        launch(fail, run_options(parse_arguments([*words, "A", "1"])), device)
    assert stop.value.code == 2 and f"error: {message}" in capsys.readouterr().err
