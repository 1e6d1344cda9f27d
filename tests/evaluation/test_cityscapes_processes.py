"""The Cityscapes evaluators in three real processes on gloo."""

import json

import pytest

from densekit.d2.utils import comm
from tests import cityscapes_scenes as scenes

PROCESSES = 3


def evaluate(root, folder, items):
    """The results of each evaluator; every process calls all of them."""
    results = []
    for kind, (make, predict) in scenes.EVALUATORS.items():
        evaluator = make(root, folder)
        for item in items:
            evaluator.process([item], [{scenes.OUTPUTS[kind]: predict(item)}])
        results.append(dict(evaluator.evaluate()))
    return results


def each(args):
    rank, items = comm.get_rank(), scenes.images(args.root)
    # The first frame goes to all, as from a sampler that pads.
    results = evaluate(args.root, args.folder, items[:1] + items[1:][rank::PROCESSES])
    (args.folder / f"rank{rank}.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_three_processes_report_and_write_once_what_one_does(tmp_path, in_processes):
    root = scenes.make_tree(tmp_path, frames=5)
    together, alone = tmp_path / "three", tmp_path / "one"
    together.mkdir()
    one = evaluate(root, alone, scenes.images(root))
    in_processes(each, PROCESSES, root=root, folder=together)
    three, *others = (json.loads((together / f"rank{rank}.json").read_text()) for rank in range(PROCESSES))
    assert all(results == {} for other in others for results in other)
    assert json.dumps(three) == json.dumps(one)  # as text, in which NaN equals NaN
    assert [list(results) for results in one] == [["sem_seg"], ["segm"], ["panoptic_seg"]]
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(together) for p in together.rglob("*") if p.is_file() and p.parent != together)
    assert all((alone / path).read_bytes() == (together / path).read_bytes() for path in files)
