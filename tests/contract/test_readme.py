"""What the README tells people to type exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_every_file_it_names_exists():
    named = set(re.findall(r"(?:configs|datasets|benchmarks|projects|docs|tests)/[\w./-]+", README))
    made = {name for name in named if name.startswith("datasets/streets")}  # by the demo
    missing = sorted(name for name in named - made if not (ROOT / name.rstrip(".")).exists())
    assert named and not missing, missing


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=[`\s#])", " ".join(re.findall(r"`[^`]+`", README))))
    assert {"demo", "test"} <= targets
    assert named <= targets, named - targets


def test_every_figure_is_filled_in():
    assert "@@" not in README


def test_flags_of_the_launcher_exist():
    from densekit.cli.arguments import argument_parser

    known = {flag for action in argument_parser()._actions for flag in action.option_strings}
    lines = [line for line in README.replace("\\\n", " ").splitlines() if "train_net.py --" in line]
    used = {flag for line in lines for flag in re.findall(r"(?<=\s)--[a-z-]+", line.split("train_net.py", 1)[1])}
    assert used - {"--help"} <= known, used - known
