"""The command ``densekit``: help without torch, and weight files from one format and layout to another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densekit.cli import COMMANDS, main
from densekit.weights import parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_answers_without_torch(command):
    code = "import sys\nfrom densekit.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code, *command, "--help"], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "usage: densekit" in run.stdout


def test_convert_changes_the_format_and_keeps_the_values(tmp_path, capsys):
    weights = {"backbone.a.weight": torch.arange(6.0).reshape(2, 3).t(), "backbone.a.bias": torch.ones(2)}
    torch.save({"model": weights, "optimizer": {"lr": 1.0}}, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "b.safetensors"), str(tmp_path / "c.pth")]) == 0
    for read in (load_file(tmp_path / "b.safetensors"), torch.load(tmp_path / "c.pth", weights_only=True)["model"]):
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_convert_takes_a_known_layout_and_refuses_names_it_lacks(tmp_path, monkeypatch, capsys):
    rules = [(r"encoder\.(\d)\.w", r"backbone.\1.weight"), (r".*num_batches_tracked", None)]
    slots = {"all": parts.Slot("", "", optional=False)}
    monkeypatch.setattr(parts, "_VOCABULARIES", {"theirs": parts.Vocabulary("theirs", slots)})
    monkeypatch.setattr(parts, "_PARTS", [parts.Part("encoder", ("theirs",), "all", (r"encoder\.0\.w",), rules)])
    torch.save({"encoder.0.w": torch.ones(1), "x.num_batches_tracked": torch.zeros(())}, tmp_path / "a.pth")
    main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.pth")])
    assert torch.load(tmp_path / "b.pth", weights_only=True)["model"] == {"backbone.0.weight": torch.ones(1)}
    torch.save({"encoder.0.w": torch.ones(1), "surprise.bias": torch.ones(1)}, tmp_path / "c.pth")
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(tmp_path / "c.pth"), str(tmp_path / "d.pth")])
    assert stop.value.code == 2
    assert "theirs" in (message := capsys.readouterr().err) and "surprise.bias" in message
    assert not (tmp_path / "d.pth").exists()


def test_convert_does_not_replace_a_file_unasked(tmp_path, capsys):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.pth")])
    assert "--overwrite" in capsys.readouterr().err
