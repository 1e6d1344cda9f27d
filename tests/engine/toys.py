"""Systems of a few numbers: an adversary, a student with a teacher, a mosaic; importing registers them."""

import math
import random

import torch
from torch import nn
from torch.nn import functional as F

from densekit.config_defaults import default_config
from densekit.d2.config import configurable
from densekit.d2.engine import HookBase
from densekit.d2.modeling import META_ARCH_REGISTRY
from densekit.data.mapper import DatasetMapper
from densekit.engine.teacher import Teacher
from densekit.modeling.phases import Phase


def pictures(batch, size=8):
    """(N, 3, size, size) in -1 .. 1."""
    images = [F.interpolate(record["image"][None].float(), (size, size)) for record in batch]
    return torch.cat(images) / 127.5 - 1


class EpochNotes(HookBase):
    """A hook that a model brings, with a state."""

    def __init__(self):
        self.epochs = []

    def after_epoch(self, epoch):
        self.epochs.append(epoch)

    def state_dict(self):
        return {"epochs": list(self.epochs)}

    def load_state_dict(self, state):
        self.epochs = list(state["epochs"])


@META_ARCH_REGISTRY.register()
class ToyAdversary(nn.Module):
    """A generator that paints pictures anew and a discriminator; BatchNorm and dropout, so that buffers and random
    numbers matter. The loss is extra in the last epochs."""

    period, joint, poison = 1, False, None

    @configurable
    def __init__(self, *, device="cpu", extra_epochs=1.0):
        super().__init__()
        self.generator = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.2))
        self.paint = nn.Conv2d(4, 3, 1)
        self.discriminator = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3)
        )
        self.extra_epochs, self.has_extra, self.notes, self.iteration = extra_epochs, False, EpochNotes(), -1
        self.to(device)

    @classmethod
    def from_config(cls, cfg):
        return {"device": cfg.MODEL.DEVICE}

    def training_phases(self):
        adversary = {"BASE_LR": 0.02, "OPTIMIZER": "Adam", "BETAS": [0.5, 0.9], "LR_SCHEDULER_NAME": "WarmupPolyLR"}
        return [
            Phase("discriminator", [self.discriminator], adversary, joint=self.joint, averaged=False),
            Phase("generator", [self.generator, self.paint], {"OPTIMIZER": "AdamW"}, period=self.period),
        ]

    def training_hooks(self):
        return [self.notes]

    def begin_iteration(self, progress):
        self.iteration = progress.iteration
        self.has_extra = progress.epoch_length is not None and progress.is_in_last(self.extra_epochs)

    def parameter_options(self, name, parameter):
        return {"lr_factor": 0.5} if name.startswith("paint") else {}

    def forward(self, batch, phase):
        real = pictures(batch)
        fake = torch.tanh(self.paint(self.generator(real * (real > 0))))
        if self.poison == (self.iteration, phase):
            fake = fake * math.nan
        if phase == "discriminator":
            scores = self.discriminator(real), self.discriminator(fake.detach())
            return {"loss_real": F.softplus(-scores[0]).mean(), "loss_fake": F.softplus(scores[1]).mean()}
        losses = {
            "loss_adversarial": F.softplus(-self.discriminator(fake)).mean(),
            "loss_l1": (fake - real).abs().mean(),
        }
        return losses | ({"loss_extra": fake.square().mean()} if self.has_extra else {})


@META_ARCH_REGISTRY.register()
class ToyStudent(nn.Module):
    """Learns the outputs of a teacher of its own kind."""

    @configurable
    def __init__(self, *, device="cpu", teacher=None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Conv2d(4, 2, 3))
        self.teacher = teacher
        self.to(device)

    @classmethod
    def from_config(cls, cfg):
        return {"device": cfg.MODEL.DEVICE, "teacher": Teacher.from_config(cfg)}

    def forward(self, batch):
        images = pictures(batch)
        if not self.training:
            return self.body(images)
        return {"loss_distillation": (self.body(images) - self.teacher(batch)).square().mean()}


class ToyMosaic(DatasetMapper):
    """Puts four pictures into one, until the last epoch; the sample says which, and when."""

    def map_training(self, record, context):
        sample = self(record)
        if context.progress.is_in_last(1):
            return sample | {"parts": [record["file_name"]], "iteration": context.progress.iteration}
        others = [context.records[random.randrange(len(context.records))] for _ in range(3)]
        four = [sample, *map(self, others)]
        size = [min(part["image"].shape[axis] for part in four) for axis in (1, 2)]
        crops = [part["image"][:, : size[0], : size[1]] for part in four]
        sample["image"] = torch.cat([torch.cat(crops[:2], 2), torch.cat(crops[2:], 2)], 1)
        del sample["instances"]
        names = [record["file_name"], *(other["file_name"] for other in others)]
        return sample | {"parts": names, "iteration": context.progress.iteration}


def phases_config(*options):
    cfg = default_config()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 6, "SOLVER.WARMUP_ITERS", 2, *options])
    return cfg
