"""Forward passes that fail in one of two processes, replicas and what they keep to themselves."""

import json
import logging
import math
import warnings

import pytest
import torch
from torch import nn

from densekit.config import default_config
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventStorage
from densekit.engine.black_box import BlackBox, read_box
from densekit.engine.failed_forward import TrainingForward
from densekit.engine.sharding import wrap_model
from densekit.engine.step import TrainingStep
from densekit.ops.replicas import own_buffers

STEPS, BAD = 5, 2
CASES = {
    "plain": {},
    "fused": {"fused": True},
    "parts": {"parts": 2},
    "unused": {"unused": True},
    "unused in parts": {"unused": True, "parts": 2},
    "half precision": {"precision": torch.float16},
}


class Net(nn.Module):
    """A model that looks at its outputs, as a region proposal network does."""

    def __init__(self, spare=False):
        super().__init__()
        torch.manual_seed(5)
        self.body, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        if spare:
            self.spare = nn.Linear(2, 2)

    def forward(self, batch):
        x = self.head(self.norm(self.body(torch.stack(batch))).relu())
        if not torch.isfinite(x).all():
            raise FloatingPointError("The boxes are not finite.")
        return {"loss_square": x.square().mean(), "loss_line": (x - 1).abs().mean()}


class Meeting(Net):
    """Its processes meet in the forward pass."""

    def forward(self, batch):
        losses = super().forward(batch)
        count = torch.ones(1)
        torch.distributed.all_reduce(count)
        return {name: loss / count[0] for name, loss in losses.items()}


def replicas(model, *, unused=False, parts=1, static=False):
    cfg = default_config()
    cfg.MODEL.DDP.FIND_UNUSED_PARAMETERS, cfg.MODEL.DDP.STATIC_GRAPH, cfg.SOLVER.ACCUMULATE = unused, static, parts
    return wrap_model(cfg, model)


def trained(batches, box=None, *, parts=1, unused=False, fused=False, precision=None, nan_skip=1):
    """The state after as many steps, with the model and the storage."""
    model = replicas(Net(unused), unused=unused, parts=parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    more = {"on_bad_step": box(model, parts)} if box else {}
    options = {"accumulate": parts, "precision": precision, "nan_skip": nan_skip}
    step = TrainingStep(model, batches, optimizer, **options, **more)
    with EventStorage(0) as storage:
        for step.iter in range(len(batches)):
            storage.iter = step.iter
            step.run_step()
        step.settle()
    return {name: value.clone() for name, value in model.state_dict().items()}, storage


def own_batches():
    made = torch.randn(STEPS, 8, 3, generator=torch.Generator().manual_seed(1))
    share = slice(4 * comm.get_rank(), 4 * comm.get_rank() + 4)
    return [list(batch[share]) for batch in made]


def each(args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a replica that begins with a warning
        model = replicas(Net())
    model([torch.full((3,), float(1 + comm.get_rank()))] * 2)
    model([torch.ones(3)] * 2)
    averages = model.module.norm.running_mean.tolist()
    same, told = {}, []
    logger = logging.getLogger("densekit.engine.step")
    logger.addHandler(handler := logging.Handler())
    handler.emit = lambda record: told.append(record.getMessage())
    for name, options in CASES.items():
        mine = own_batches()
        without = trained([mine[step] for step in range(STEPS) if step != BAD], **options)[0]
        if comm.get_rank() == 1:
            mine[BAD][3] = torch.full((3,), math.nan)
        box = (lambda model, parts: BlackBox(str(args.folder / "out"), model, None, parts)) if name == "plain" else None
        skipping, storage = trained(mine, box, **options)
        same[name] = all(torch.equal(value, without[key]) for key, value in skipping.items())
        if comm.is_main_process():
            same[name] &= storage.history("skipped_steps").values() == [(1, BAD)]
    (args.folder / f"{comm.get_rank()}.json").write_text(json.dumps({"averages": averages, "same": same, "told": told}))
    with pytest.raises(FloatingPointError, match="in a row" if comm.is_main_process() else "boxes are not finite"):
        trained([mine[0], mine[BAD], mine[BAD]])


def test_all_processes_skip_what_fails_in_one(tmp_path, in_processes):
    in_processes(each, 2, folder=tmp_path)
    facts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert facts[0]["averages"] != facts[1]["averages"]
    assert [fact["same"] for fact in facts] == [dict.fromkeys(CASES, True)] * 2
    assert "nan" in facts[0]["told"][0] and "Process 1: The boxes are not finite." in facts[0]["told"][0]
    assert "Iteration 2: The boxes are not finite. Its batch" in facts[1]["told"][0]
    box, _ = read_box(tmp_path / "out" / "black_box" / "iter_0000002")
    assert box["error"] == "The boxes are not finite."
    assert [process["error"] for process in box["processes"]] == ["", "The boxes are not finite."]
    assert math.isfinite(box["losses"][0]["loss_line"]) and box["losses"][1]["loss_line"] == "nan"


# Where the others cannot be told; one process that believes it has others


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)


@pytest.mark.parametrize(
    ("kind", "static", "shares", "before", "raises"),
    [
        (Net, False, True, 1, False),
        (Net, False, True, 0, True),
        (Net, False, False, 1, True),
        (Net, True, True, 1, True),
        (Meeting, False, True, 1, True),
    ],
)
def test_a_failure_is_shared_where_the_others_wait_for_gradients_only(group, kind, static, shares, before, raises):
    model = nn.parallel.DistributedDataParallel(kind(), static_graph=static, **own_buffers())
    keys = list(model.state_dict())
    forward = TrainingForward(model, shares=shares)
    good = list(torch.randn(4, 3))
    for _ in range(before):
        losses, error = forward(good)
        assert set(losses) == {"loss_square", "loss_line"} and not error
        sum(losses.values()).backward()
    bad = [*good[:3], torch.full((3,), math.inf)]
    if raises:
        with pytest.raises(FloatingPointError, match="boxes are not finite"):
            forward(bad)
        return
    losses, error = forward(bad)
    assert error == "The boxes are not finite."
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(parameter.grad.isnan().all() for parameter in model.parameters())
    model.zero_grad()
    losses, error = forward(good)  # is as it was
    sum(losses.values()).backward()
    assert not error and all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert list(model.state_dict()) == keys
