"""The command line: Detectron2's flags in any order, errors in one line, no torch for --help."""

import subprocess
import sys
from pathlib import Path

import pytest

from densekit.cli.arguments import parse_arguments

ROOT = Path(__file__).resolve().parents[1]
FILE = ["--config-file", "x.yaml"]


def test_defaults():
    args = parse_arguments(FILE)
    assert vars(args) == {
        "datasets": "",
        "train_data": "",
        "val_data": "",
        "config_file": "x.yaml",
        "resume": "never",
        "eval_only": False,
        "replay": "",
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "dist_url": "auto",
        "print_config": False,
        "diff": False,
        "dry_run": False,
        "opts": [],
    }


@pytest.mark.parametrize(
    "words",
    [
        [*FILE, "--num-gpus", "2", "--eval-only", "A.B", "1", "C", "(1, 2)"],
        ["A.B", "1", *FILE, "--num-gpus", "2", "C", "(1, 2)", "--eval-only"],
        ["--eval-only", "A.B", "1", "C", "(1, 2)", "--num-gpus=2", *FILE],
    ],
)
def test_flags_and_pairs_in_any_order(words):
    args = parse_arguments(words)
    assert args.opts == ["A.B", "1", "C", "(1, 2)"]
    assert args.num_gpus == 2 and args.eval_only and args.config_file == "x.yaml"


def test_negative_and_empty_values_are_values():
    assert parse_arguments([*FILE, "SEED", "-1", "MODEL.WEIGHTS", ""]).opts == ["SEED", "-1", "MODEL.WEIGHTS", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config-file is missing"),
        ([*FILE, "A.B"], "KEY VALUE"),
        ([*FILE, "A.B=1"], "write 'A.B 1'"),
        ([*FILE, "--eval-onyl"], "did you mean --eval-only?"),
        ([*FILE, "--num-gpus", "0"], "'0' is not a positive number"),
        ([*FILE, "--num-machines", "2", "--dist-url", "tcp://h:1", "--machine-rank", "2"], "--machine-rank 2"),
        ([*FILE, "--num-machines", "2"], "--dist-url"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_help_teaches_and_does_not_import_torch():
    code = (
        "import sys, runpy\nsys.argv = ['train_net.py', '--help']\ntry:\n    runpy.run_path('train_net.py', run_name="
    )
    code += "'__main__')\nfinally:\n    assert not {'torch', 'numpy', 'densekit.d2'} & set(sys.modules)\n"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "examples:" in run.stdout and "torchrun" in run.stdout and "--eval-only MODEL.WEIGHTS" in run.stdout


@pytest.mark.parametrize(
    ("words", "mode", "opts"),
    [
        (["--resume"], "auto", []),
        (["--resume", "OUTPUT_DIR", "x"], "auto", ["OUTPUT_DIR", "x"]),
        (["OUTPUT_DIR", "x", "--resume", "--eval-only"], "auto", ["OUTPUT_DIR", "x"]),
        (["--resume", "must", "OUTPUT_DIR", "x"], "must", ["OUTPUT_DIR", "x"]),
        (["--resume=never"], "never", []),
    ],
)
def test_resume_is_a_flag_and_a_choice(words, mode, opts):
    args = parse_arguments([*FILE, *words])
    assert (args.resume, args.opts) == (mode, opts)
