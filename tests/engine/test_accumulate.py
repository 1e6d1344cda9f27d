"""Steps cut into micro-batches: in runs that are resumed, in several processes, and what of it is refused."""

import json
import math
import shutil

import pytest
import torch
from torch import nn

from densekit.d2.engine import create_ddp_model
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer, run, setup
from densekit.engine.black_box import BlackBox, read_box
from densekit.engine.step import TrainingStep
from densekit.ops.replicas import own_buffers

CUT = ["SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 2, "DATASETS.TEST", "()"]


def final(folder) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_a_run_of_micro_batches_resumes_exactly_and_sees_the_images_of_whole_ones(arguments, tmp_path, monkeypatch):
    seen = []
    ordinary = TrainingStep.run_step

    def noting(self):
        ordinary(self)
        seen.append((self.iter, self.data_loader.last_files))

    monkeypatch.setattr(TrainingStep, "run_step", noting)
    run(arguments(*CUT, "SOLVER.MAX_ITER", 4))
    whole, first = dict(seen), tmp_path / "first"
    shutil.copytree(tmp_path / "out", first)
    (first / "last_checkpoint").write_text("model_0000001.pth")
    for parts in (2, 1):
        folder = tmp_path / f"again_{parts}"
        shutil.copytree(first, folder)
        seen.clear()
        run(arguments(*CUT, "SOLVER.MAX_ITER", 4, "SOLVER.ACCUMULATE", parts, "OUTPUT_DIR", folder, resume=True))
        assert seen == [(step, whole[step]) for step in (2, 3)]
    ends = [final(tmp_path / name) for name in ("out", "again_2", "again_1")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(not torch.equal(value, ends[2][name]) for name, value in ends[0].items())  # batch statistics differ


@pytest.mark.parametrize("parts", [0, 3])
def test_parts_that_do_not_divide_the_batch_are_refused(arguments, parts):
    cfg = setup(arguments("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", parts))
    with pytest.raises(ValueError, match=rf"SOLVER\.ACCUMULATE {parts}: a step of SOLVER\.IMS_PER_BATCH 4 images"):
        Trainer(cfg)


# Several processes


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, batch):
        x = self.head(self.body(torch.stack(batch)).relu())
        return {"loss_square": x.square().mean(), "loss_line": (x - 1).abs().mean()}


def images(steps):
    return list(torch.randn(steps, 8, 3, generator=torch.Generator().manual_seed(1)))


def trained(batches, parts, **options):
    """The weights after three steps, the metrics, and how many times gradients were shared."""
    model = create_ddp_model(Net(), **own_buffers(), **({"device_ids": None} if comm.get_world_size() > 1 else {}))
    shared = []
    if comm.get_world_size() > 1:

        def count(state, bucket):
            shared.append(1)
            total = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
            return total.then(lambda done: done.value()[0] / comm.get_world_size())

        model.register_comm_hook(None, count)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = TrainingStep(model, batches, optimizer, accumulate=parts, **options)
    with EventStorage(0) as storage:
        for step.iter in range(len(batches)):
            storage.iter = step.iter
            step.run_step()
        numbers = {name: [value for value, _ in history.values()] for name, history in storage.histories().items()}
    return {name.removeprefix("module."): value for name, value in model.state_dict().items()}, numbers, len(shared)


def each(args):
    """Each process has half of every step's images; then one of them meets a NaN."""
    share = slice(4 * comm.get_rank(), 4 * comm.get_rank() + 4)
    mine = [list(batch[share]) for batch in images(3)]
    weights, numbers, shared = trained(mine, 2)
    if comm.get_rank() == 1:
        mine[1][3] = torch.full((3,), math.nan)
    told = []
    skipping = trained(mine, 2, nan_skip=1, on_bad_step=lambda record, alone: told.append(record.losses) or "")[0]
    without = trained([mine[0], mine[2]], 2)[0]
    same = all(torch.equal(value, without[name]) for name, value in skipping.items())
    try:
        trained(mine, 2, on_bad_step=BlackBox(str(args.folder), Net(), None, 2))
        stopped = ""
    except FloatingPointError as error:
        stopped = str(error)
    told = [[{name: str(value) for name, value in losses.items()} for losses in record] for record in told]
    facts = {"numbers": numbers, "shared": shared, "same": same, "told": told, "stopped": stopped}
    (args.folder / f"{comm.get_rank()}.json").write_text(json.dumps(facts))
    torch.save(weights, args.folder / f"{comm.get_rank()}.pth")


def test_two_processes_make_the_step_of_one_and_refuse_together(tmp_path, in_processes):
    in_processes(each, 2, folder=tmp_path)
    alone, numbers, _ = trained([list(batch) for batch in images(3)], 1)
    for rank in range(2):
        weights, facts = torch.load(tmp_path / f"{rank}.pth"), json.loads((tmp_path / f"{rank}.json").read_text())
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
        assert facts["shared"] == 3  # once a step, not for each micro-batch
        assert facts["same"]
        assert "Iteration 1" in facts["stopped"] and "loss_square" in facts["stopped"]
        (losses,) = facts["told"]
        assert "nan" not in losses[0].values() and set(losses[1].values()) == {"nan"}
    box, state = read_box(tmp_path / "black_box" / "iter_0000001")
    assert [process["process"] for process in box["processes"]] == [0, 1] and len(state["random_states"]) == 2
    assert box["losses"][1]["loss_line"] == "nan" and box["norm"] == "nan"
    shown = json.loads((tmp_path / "0.json").read_text())["numbers"]
    for name in ("total_loss", "loss_square", "loss_line", "grad_norm"):
        assert shown[name] == pytest.approx(numbers[name], rel=1e-5)
