"""DETR R50 here against a straightforward implementation: time and peak memory of inference; time of the matching.

The other side is torchvision's ResNet with frozen BatchNorm as a layer of its own, ``nn.MultiheadAttention`` that
returns its weights in every layer, a padding mask always, and both heads on all decoder layers. Both hold the same
weights, and their outputs are compared first. They take turns in one process; the ratio is taken within each round and
its median reported. Peak memory is that of a process of its own, as a whole and above what the process holds before it
makes the model, which is libraries alone. Example::

    python benchmarks/detr.py --rounds 5 --threads 2
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from common import print_row, resident_peak, spent
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.layers.position_encoding import SinePositionEncoding
from densekit.modeling.matcher import HungarianMatcher

CONFIG = Path(__file__).resolve().parents[1] / "configs/detr/detr_R_50.yaml"
SIDES = ("densekit", "plain")


class PlainLayer(nn.Module):
    """An encoder layer, or a decoder layer with attention to the image, in the order (length, batch, width)."""

    def __init__(self, decoder: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(256, 8)
        if decoder:
            self.multihead_attn = nn.MultiheadAttention(256, 8)
        self.linear1, self.linear2 = nn.Linear(256, 2048), nn.Linear(2048, 256)
        self.norms = 3 if decoder else 2
        for index in range(1, self.norms + 1):
            self.add_module(f"norm{index}", nn.LayerNorm(256))

    def norm(self, index: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"norm{index}")(x)

    def forward(self, x: Tensor, place: Tensor, *image: Tensor) -> Tensor:
        placed = x + place
        if self.norms == 2:  # encoder: what is left is the mask
            attended, _ = self.self_attn(placed, placed, x, key_padding_mask=image[0])
        else:
            attended, _ = self.self_attn(placed, placed, x)
        x = self.norm(1, x + attended)
        if self.norms == 3:
            mask, memory, position = image
            attended, _ = self.multihead_attn(x + place, memory + position, memory, key_padding_mask=mask)
            x = self.norm(2, x + attended)
        return self.norm(self.norms, x + self.linear2(F.relu(self.linear1(x))))


class PlainDETR(nn.Module):
    """The model of the paper, written down without a thought for speed."""

    def __init__(self) -> None:
        super().__init__()
        resnet = resnet50(norm_layer=FrozenBatchNorm2d)
        self.body = IntermediateLayerGetter(resnet, {f"layer{i}": str(i) for i in range(1, 5)})
        self.positions = SinePositionEncoding(256)
        self.input_proj = nn.Conv2d(2048, 256, 1)
        self.encoder = nn.ModuleList([PlainLayer(decoder=False) for _ in range(6)])
        self.decoder = nn.ModuleList([PlainLayer(decoder=True) for _ in range(6)])
        self.norm = nn.LayerNorm(256)
        self.query_embed = nn.Embedding(100, 256)
        self.class_embed = nn.Linear(256, 81)
        self.bbox_embed = nn.Sequential(
            nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)["4"]
        mask = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
        mask = F.interpolate(mask[None].float(), size=features.shape[-2:])[0].bool()
        position = self.positions(mask).flatten(2).permute(2, 0, 1)
        memory = self.input_proj(features).flatten(2).permute(2, 0, 1)
        for layer in self.encoder:
            memory = layer(memory, position, mask.flatten(1))
        place = self.query_embed.weight[:, None].repeat(1, len(images), 1)
        x, states = torch.zeros_like(place), []
        for layer in self.decoder:
            x = layer(x, place, mask.flatten(1), memory, position)
            states.append(self.norm(x))
        hidden = torch.stack(states).transpose(1, 2)
        return self.class_embed(hidden)[-1], self.bbox_embed(hidden)[-1]


def plain_names(model: nn.Module) -> dict[str, Tensor]:
    """Our weights under the names of the plain model."""
    renamed = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("detr.").removeprefix("transformer.")
        name = name.replace(".layers.", ".", 1) if name.startswith(("encoder", "decoder")) else name
        for number, place in enumerate("024"):
            name = name.replace(f"bbox_embed.layers.{number}", f"bbox_embed.{place}")
            name = name.replace(f"conv{number + 1}.norm", f"bn{number + 1}")
        name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        name = name.replace("backbone.0.backbone.", "body.").replace("stem.", "").replace("decoder.norm", "norm")
        for stage in range(2, 6):
            name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
        renamed[name] = value
    renamed.pop("criterion.empty_weight")
    return renamed


class Contestant:
    """One side with its way to predict.

    Args:
        side: of ``SIDES``.
        size: height and width of the image.
    """

    def __init__(self, side: str, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        self.side = side
        self.image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        cfg = load_config(str(CONFIG), ["MODEL.DEVICE", "cpu"])
        self.model: nn.Module = build_model(cfg) if side == "densekit" else PlainDETR()
        self.mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1)
        self.std = torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1)
        self.model.eval()

    @torch.no_grad()
    def predict(self) -> tuple[Tensor, Tensor]:
        """Scores and boxes of all queries."""
        if self.side == "densekit":
            images = self.model.preprocess_image([{"image": self.image}])
            outputs = self.model.detr(images.tensor, images.image_sizes)
            return outputs["pred_logits"], outputs["pred_boxes"]
        return self.model(((self.image - self.mean) / self.std)[None])


def peak_memory(side: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Peak resident memory, MiB, of a fresh process that predicts a few times: all of it, and above the libraries'."""
    command = [sys.executable, __file__, "--memory-of", side, "--threads", str(arguments.threads)]
    command += ["--size", *map(str, arguments.size)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[-2]), float(output[-1])


def print_peak_memory(arguments: argparse.Namespace) -> None:
    load_config(str(CONFIG))  # imports what both sides import
    libraries = resident_peak()
    contestant = Contestant(arguments.memory_of, tuple(arguments.size))
    for _ in range(3):
        contestant.predict()
    print(resident_peak(), resident_peak() - libraries)


def matching_time(rounds: int) -> float:
    """Median seconds to match 16 images of 100 queries and 30 boxes."""
    outputs = {"pred_logits": torch.randn(16, 100, 81), "pred_boxes": torch.rand(16, 100, 4)}
    targets = [{"labels": torch.randint(0, 80, (30,)), "boxes": torch.rand(30, 4)} for _ in range(16)]
    matcher = HungarianMatcher()
    return statistics.median(spent(lambda: matcher(outputs, targets))[0] for _ in range(4 * rounds + 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--memory-of", choices=SIDES, help="print the peak memory of this side alone, MiB")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_peak_memory(arguments)
        return
    # Before this process grows: a child's peak starts from what its parent holds.
    memory = [peak_memory(side, arguments) for side in SIDES]
    own, plain = (Contestant(side, tuple(arguments.size)) for side in SIDES)
    plain.model.load_state_dict(plain_names(own.model))
    torch.testing.assert_close(own.predict(), plain.predict(), atol=1e-3, rtol=1e-3)
    print(f"DETR R50, {arguments.size[0]} x {arguments.size[1]}, CPU, {arguments.threads} threads, ", end="")
    print(f"torch {torch.__version__}, {arguments.rounds} rounds; the outputs of both agree")
    rounds = []
    for turn in range(arguments.rounds + 1):
        order = (own, plain) if turn % 2 else (plain, own)
        times = {contestant.side: spent(contestant.predict) for contestant in order}
        rounds.append((times["densekit"], times["plain"]))
    print(f"{'':22}{'densekit':>12}{'plain':>12}{'ratio':>9}   (lowest and highest)")
    for label, clock in (("inference, wall s", 0), ("inference, processor s", 1)):
        print_row(label, [(mine[clock], theirs[clock]) for mine, theirs in rounds[1:]])
    for label, part in (("peak, MiB", 0), ("peak less libraries", 1)):
        print_row(label, [(memory[0][part], memory[1][part])])
    print(f"matching 16 images x 100 queries x 30 boxes: {1000 * matching_time(arguments.rounds):.2f} ms")


if __name__ == "__main__":
    main()
