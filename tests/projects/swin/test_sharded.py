"""Swin spread over processes block by block: it learns what the whole learns, and resumes to the last bit."""

import pytest
import torch
from torch import nn

from densekit.d2.utils import comm
from densekit.ops.sharded import has_parts
from densekit.projects.swin.backbone import SwinTransformer
from tests.engine.sharded_training import Training, shards_on_the_cpu


class Net(nn.Module):
    """The backbone with a head on its last map; odd sizes, shifted windows and padding are all there."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.backbone = SwinTransformer(
            embed_dim=6, depths=(2, 2), num_heads=(1, 2), window_size=3, drop_path_rate=0.0, out_features=("res3",)
        )
        self.head = nn.Linear(12, 1)

    def forward(self, batch):
        return {"loss": self.head(self.backbone(torch.stack(batch))["res3"].mean((2, 3))).square().mean()}


def images():
    return torch.randn(4, 4, 3, 30, 22, generator=torch.Generator().manual_seed(1))


def each(args):
    share = 4 // comm.get_world_size()
    mine = images()[:, share * comm.get_rank() : share * (comm.get_rank() + 1)]
    training = Training(Net(), True, ["SwinBlock"], rate=0.01)(mine[:2])
    middle = training.state()
    end = training(mine[2:]).state()
    again = Training(Net(), True, ["SwinBlock"], rate=0.01).load(middle)(mine[2:]).state()
    if comm.is_main_process():
        facts = {"end": end, "again": again, "parts": has_parts(training.model)}
        torch.save(facts, args.folder / "states.pth")


@shards_on_the_cpu
@pytest.mark.parametrize("count", [1, 2])
def test_named_blocks_resume_to_the_last_bit(tmp_path, in_processes, count):
    in_processes(each, count, folder=tmp_path)
    states = torch.load(tmp_path / "states.pth")
    assert states["parts"] or count == 1
    torch.testing.assert_close(states["again"], states["end"], rtol=0, atol=0)
    alone = Training(Net(), False, ["SwinBlock"], rate=0.01)(images()).state()
    for name, value in alone["model"].items():
        if not name.endswith("attn.qkv.bias"):  # that of the keys has no gradient but noise, which AdamW blows up
            torch.testing.assert_close(states["end"]["model"][name], value, rtol=1e-3, atol=1e-5)
