"""A model whose parameters are spread over two processes against the same model in one."""

import pytest
import torch
from torch import nn

from densekit.d2.utils import comm
from densekit.ops.sharded import has_parts
from tests.engine.sharded_training import Training, shards_on_the_cpu


class Net(nn.Module):
    """Blocks of a backbone and a head; sizes that two processes cannot share evenly."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.backbone = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 5)), nn.Linear(5, 4))
        self.head = nn.Linear(4, 1)

    def forward(self, batch):
        return {"loss": self.head(self.backbone(torch.stack(batch)).relu()).square().mean()}


def images(steps):
    return torch.randn(steps, 8, 3, generator=torch.Generator().manual_seed(1))


def each(args):
    share = slice(4 * comm.get_rank(), 4 * comm.get_rank() + 4)
    mine = images(4)[:, share]
    training = Training(Net(), True)(mine[:2])
    assert has_parts(training.model)
    middle = training.state()
    end = training(mine[2:]).state()
    again = Training(Net(), True).load(middle)(mine[2:]).state()
    with pytest.raises(ValueError, match="the backbone has no SwinBlock; it has Linear, ReLU, Sequential"):
        Training(Net(), True, ["SwinBlock"])
    if comm.is_main_process():
        torch.save({"end": end, "again": again}, args.folder / "states.pth")


@shards_on_the_cpu
def test_parts_learn_what_the_whole_learns_and_resume_from_whole_checkpoints(tmp_path, in_processes):
    in_processes(each, 2, folder=tmp_path)
    states = torch.load(tmp_path / "states.pth")
    alone = Training(Net(), False)(images(4)).state()
    torch.testing.assert_close(states["end"]["model"], alone["model"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        states["end"]["optimizer"]["state"], alone["optimizer"]["state"], rtol=1e-3, atol=1e-6, check_dtype=False
    )
    torch.testing.assert_close(states["again"], states["end"], rtol=0, atol=0)
