"""The shipped configurations by their names, in lists, as bases and as package data; and the look at the machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from densekit.cli import main
from densekit.cli.doctor import free_memory, instruction_sets, opencv_builds
from densekit.config import describe_config, explicit_keys, load_config
from densekit.config_files import config_folder, find_config, shipped_configs
from densekit.config_list import list_configs, read_facts
from densekit.d2 import model_zoo

ROOT = Path(__file__).resolve().parents[2]
CARAFE = "carafe/mask_rcnn_R_50_FPN_carafe_1x.yaml"


def test_a_file_goes_before_a_shipped_one_and_any_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = config_folder() / CARAFE
    assert find_config(CARAFE) == find_config(f"configs/{CARAFE}") == str(shipped)
    (tmp_path / "carafe").mkdir()
    (tmp_path / CARAFE).write_text("SEED: 4\n")
    assert find_config(CARAFE) == CARAFE and load_config(CARAFE).SEED == 4
    assert explicit_keys(CARAFE) == {"SEED"}


@pytest.mark.parametrize("name", ["../setup.py", "/etc/hosts.yaml", "carafe/nothing.yaml", "carafe"])
def test_what_is_not_shipped_is_not_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_config(name)


def test_a_shipped_file_is_a_base_of_a_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "middle.yaml").write_text(f"_BASE_: [{CARAFE}]  # shipped\nSEED: 3\n")
    (tmp_path / "own.yaml").write_text('_BASE_: "middle.yaml"\nSOLVER:\n  MAX_ITER: 7\n')
    cfg, plain = load_config("own.yaml"), load_config(CARAFE)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.FPN.UPSAMPLER) == (3, 7, "carafe")
    plain.merge_from_list(["SEED", 3, "SOLVER.MAX_ITER", 7])
    assert cfg.dump() == plain.dump() and explicit_keys("own.yaml") == {"SOLVER.MAX_ITER"}
    assert re.search(r"MODEL\.FPN\.UPSAMPLER: .*carafe.*\.yaml:\d+", describe_config(cfg, "own.yaml", []))
    (tmp_path / "wrong.yaml").write_text("_BASE_: carafe/mask_rcnn_R_50_FPN_carafe_2x.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"wrong\.yaml, line 1.*nearest.*carafe_1x\.yaml"):
        load_config("wrong.yaml")


def test_every_shipped_file_is_listed_with_its_task():
    facts = {one.name: one for one in list_configs()}
    files = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert set(facts) == set(shipped_configs()) == {n for n in files if not re.search(r"(^|/)_\w+/", n)}
    untold = [one.name for one in facts.values() if not one.task]
    assert not untold, f"Write `# Task: ... .` into the head of a base of these: {untold}"
    assert {one.task for one in facts.values()} >= {
        "detection",
        "inpainting",
        "instance segmentation",
        "keypoints",
        "panoptic segmentation",
        "proposals",
        "semantic segmentation",
    }


def test_every_published_figure_is_read():
    for name in shipped_configs():
        head = re.match(r"(#.*\n)*", (config_folder() / name).read_text())[0]
        published = read_facts(name).published
        assert ("Published" in head) == bool(published), name
        assert not published or re.match(r"[\w@ -]+ \d+(\.\d+)?\b", published), (name, published)


def test_facts_are_those_of_the_merged_configuration():
    for name in shipped_configs():
        cfg, facts = load_config(name), read_facts(name)
        assert facts.data == ", ".join(cfg.DATASETS.TRAIN), name
        assert (facts.task == "keypoints") == cfg.MODEL.KEYPOINT_ON, name


def test_a_task_that_keys_do_not_tell_stands_in_the_head(tmp_path):
    (tmp_path / "base.yaml").write_text("# Task: inpainting.\nMODEL:\n  META_ARCHITECTURE: Novel\n")
    (tmp_path / "a.yaml").write_text("# python ...\n# Published (small): PSNR 26.1.\n_BASE_: base.yaml\n")
    facts = read_facts(str(tmp_path / "a.yaml"))
    assert (facts.task, facts.published) == ("inpainting", "PSNR 26.1")


def test_the_command_lists(capsys):
    assert main(["configs", "CARAFE/mask"]) == 0
    shown = capsys.readouterr().out
    assert CARAFE in shown and "box AP 39.3, mask AP 35.8" in shown and "detr" not in shown
    assert main(["configs", "nothing of that kind"]) == 1
    assert main(["configs", "classifier_w18", "--table"]) == 0
    row = re.split(r" {2,}", capsys.readouterr().out.splitlines()[-1])
    assert float(row[3]) == pytest.approx(21.3, abs=0.05) and 3.9 < float(row[4]) < 4.5
    assert row[5:] == ["224 x 224", "21.3 M, 3.99 G at 224 x 224"]


def test_the_model_zoo_is_detectron2s_over_these_files():
    assert model_zoo.get_config_file(CARAFE) == str(config_folder() / CARAFE)
    with pytest.raises(RuntimeError, match="not available in Model Zoo"):
        model_zoo.get_config_file("carafe/nothing.yaml")
    with pytest.raises(RuntimeError, match="no trained weights"):
        model_zoo.get_config(CARAFE, trained=True)


def test_every_shipped_file_is_yaml():
    assert all(yaml.compose(path.read_text()) for path in config_folder().rglob("*.yaml"))


def test_the_doctor_looks_at_everything(capsys, tmp_path):
    code = main(["doctor", "--folder", str(tmp_path / "not" / "yet")])
    shown = capsys.readouterr().out
    assert re.search(r"^Python +3\.", shown, re.MULTILINE) and re.search(r"^torch +\d", shown, re.MULTILINE)
    assert all(re.search(rf"^{name} ", shown, re.MULTILINE) for name in ("host", "OpenCV", "processor", "disk"))
    assert (code == 0) == ("Nothing is in the way." in shown)


def test_they_run_where_torch_is_broken(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so: no such file')\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}

    def call(*words):
        command = [sys.executable, "-m", "densekit", *words]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)

    assert CARAFE in call("configs", "carafe").stdout
    doctor = call("doctor")
    assert doctor.returncode == 1 and "Traceback" not in doctor.stderr
    assert re.search(r"^torch +does not import: libcudart\.so: no such file", doctor.stdout, re.MULTILINE)
    assert "- Install torch" in doctor.stdout and re.search(r"^disk ", doctor.stdout, re.MULTILINE)


def test_opencv_that_is_installed_twice(monkeypatch, capsys):
    assert opencv_builds(["numpy", "opencv_python_headless", "OpenCV-Python"]) == [
        "opencv-python",
        "opencv-python-headless",
    ]
    monkeypatch.setattr("densekit.cli.doctor.opencv_builds", lambda names: ["opencv-python", "opencv-contrib-python"])
    assert main(["doctor"]) == 1
    assert "pip uninstall opencv-python opencv-contrib-python; pip install opencv-contrib" in capsys.readouterr().out


def test_memory_of_machines_and_containers():
    info = "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n"
    assert free_memory(info, "max\n", "100\n") == free_memory(info, "", "") == 4000 * 1024
    assert free_memory(info, "1000000\n", "400000\n") == 600000
    assert free_memory("", "", "") is None


def test_instruction_sets():
    assert instruction_sets("model name : x\nflags\t\t: fpu avx2 avx512f amx_bf16\n") == ["avx2", "avx512f", "amx_bf16"]
    assert instruction_sets("") == []
