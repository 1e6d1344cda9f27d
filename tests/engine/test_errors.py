"""The line that ends a run: once on the screen, and in the log that is left of a job on a cluster."""

import pytest

from densekit.d2.utils import comm
from densekit.d2.utils.logger import setup_logger
from densekit.engine import run
from densekit.engine.errors import DataError, user_errors


def test_the_log_has_the_line_that_ends_a_run(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(arguments("MODEL.WEIGHTS", tmp_path / "none.pth"))
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "none.pth" in line and line not in out
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count(line) == 1 and log.splitlines()[-1].endswith(f"ERROR: {line}")


def test_the_log_of_the_first_process_has_the_line_of_another(tmp_path, monkeypatch, capsys):
    (tmp_path / "log.txt").write_text("begun\n")
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    setup_logger(str(tmp_path), distributed_rank=1, name="densekit")
    with pytest.raises(SystemExit), user_errors((DataError,)):
        raise DataError("a.jpg is damaged.")
    assert capsys.readouterr().err == "error: a.jpg is damaged.\n"
    for name in ("log.txt", "log.txt.rank1"):
        assert (tmp_path / name).read_text().count("error: a.jpg is damaged.\n") == 1


def test_a_full_disk_does_not_hide_why_it_ends(tmp_path, monkeypatch, capsys):
    setup_logger(str(tmp_path), name="densekit")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(SystemExit), user_errors((DataError,)):
        raise DataError("The disk is full.")
    monkeypatch.undo()
    assert capsys.readouterr().err == "error: The disk is full.\n"
