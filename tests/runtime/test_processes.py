"""Starting processes as Detectron2's users do."""

import time

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from densekit.runtime.engine.launch import launch
from densekit.runtime.utils import comm


def each(folder, words):
    (folder / str(comm.get_rank())).write_text(f"{comm.all_gather(words)} {comm.get_local_rank()}")


def test_processes_of_this_machine_join_one_group(tmp_path):
    launch(each, 2, dist_url="auto", args=(tmp_path, "here"))
    assert [(tmp_path / name).read_text() for name in "01"] == ["['here', 'here'] 0", "['here', 'here'] 1"]


def test_one_process_is_this_one(tmp_path):
    launch(each, 1, args=(tmp_path, "here"))
    assert (tmp_path / "0").read_text() == "['here'] 0"


def fail_in_one():
    if comm.get_rank() == 1:
        raise RuntimeError("a fault of the program")
    time.sleep(60)


def test_the_error_of_one_process_ends_all():
    with pytest.raises(ProcessRaisedException, match="RuntimeError: a fault of the program"):
        launch(fail_in_one, 2, dist_url="auto")


def test_several_machines_need_an_address():
    with pytest.raises(ValueError, match="--dist-url that all of them reach"):
        launch(each, 1, num_machines=2, dist_url="auto")
