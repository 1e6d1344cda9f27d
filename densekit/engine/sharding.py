"""One model in several processes: a replica in each (DDP), or each with a part of the parameters (FSDP2)."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from densekit.d2.config import CfgNode
from densekit.d2.engine import create_ddp_model
from densekit.d2.modeling import build_model
from densekit.d2.utils import comm
from densekit.engine.randomness import undisturbed
from densekit.modeling.phases import Phase, phases_of
from densekit.ops.replicas import own_buffers
from densekit.ops.sharded import has_parts, load_whole_optimizer_states, load_whole_states, whole

__all__ = ["evaluation_model", "prepare_optimizer", "replica_of_phase", "wrap_model"]


def wrap_model(cfg: CfgNode, model: nn.Module, precision: torch.dtype | None = None) -> nn.Module:
    """Prepares a model for training in the processes of this job; with one process it is returned as it is.

    To be called before the optimizer is built: sharding replaces the parameters. A model with phases is left alone
    unless it is sharded: each of its phases has a replica of its own, :func:`replica_of_phase`.

    Args:
        cfg: ``MODEL.SHARDING``, ``MODEL.DDP``.
        model: on its device.
        precision: of mixed precision, in which sharded blocks travel; None without it.

    Raises:
        ValueError: the keys ask for what cannot be had.
    """
    if comm.get_world_size() == 1:
        return model
    if cfg.MODEL.SHARDING.ENABLED:
        return _shard(model, cfg.MODEL.SHARDING.BLOCKS, precision)
    if cfg.MODEL.DDP.STATIC_GRAPH and cfg.SOLVER.ACCUMULATE > 1:
        raise ValueError(
            f"MODEL.DDP.STATIC_GRAPH True does not go with SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE}: torch cannot "
            "leave out the sharing of gradients between the parts of a step there. Set one of them back."
        )
    return model if phases_of(model) else _replica(cfg, model)


def replica_of_phase(cfg: CfgNode, model: nn.Module, phase: Phase) -> nn.Module:
    """Prepares a model for one phase of its step, whose gradients alone its processes share.

    Args:
        cfg: ``MODEL.SHARDING``, ``MODEL.DDP``.
        model: that :func:`wrap_model` has returned.
        phase: of the model.
    """
    if comm.get_world_size() == 1 or has_parts(model):
        return model
    learns = set(map(id, phase.parameters()))
    others = [name for name, value in model.named_parameters() if id(value) not in learns]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, others)
    try:
        return _replica(cfg, model)
    finally:
        del model._ddp_params_and_buffers_to_ignore


def _replica(cfg: CfgNode, model: nn.Module) -> nn.Module:
    on_gpu = next(model.parameters()).device.type == "cuda"
    return create_ddp_model(
        model,
        device_ids=[torch.cuda.current_device()] if on_gpu else None,
        gradient_as_bucket_view=True,  # gradients are not copied to be summed
        static_graph=cfg.MODEL.DDP.STATIC_GRAPH,
        find_unused_parameters=cfg.MODEL.DDP.FIND_UNUSED_PARAMETERS,
        **own_buffers(),
    )


def _shard(model: nn.Module, names: list[str], precision: torch.dtype | None) -> nn.Module:
    device = next(model.parameters()).device.type
    if device == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise ValueError(
            f"MODEL.SHARDING.ENABLED: torch {torch.__version__} shards models on GPUs only. Take a newer torch, or set "
            "MODEL.SHARDING.ENABLED False."
        )
    for tensor in (*model.parameters(), *model.buffers()):  # as DDP: every process begins with the first one's
        dist.broadcast(tensor.data, src=0)
    mesh = init_device_mesh(device, (comm.get_world_size(),))
    for block in _blocks(model, names):
        fully_shard(block, mesh=mesh, mp_policy=_policy(block, precision))
    fully_shard(model, mesh=mesh)
    load_whole_states(model)
    return model


def _policy(block: nn.Module, precision: torch.dtype | None) -> MixedPrecisionPolicy:
    """Parameters that are gathered in reduced precision, where every layer takes them so under autocast.

    BatchNorm does not: its running averages stay in float32, and all that it gets must be alike.
    """
    if precision is None or any(isinstance(module, _BatchNorm) for module in block.modules()):
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _blocks(model: nn.Module, names: list[str]) -> list[nn.Module]:
    """The modules below ``backbone`` that are gathered one at a time.

    Args:
        model: the whole model.
        names: of their classes; none: the members of those sequences that hold no further sequence.
    """
    inside = [module for name, module in model.named_modules() if "backbone" in name.split(".")]
    if names:
        found = [module for module in inside if type(module).__name__ in names]
        if missing := set(names) - {type(module).__name__ for module in found}:
            classes = sorted({type(module).__name__ for module in inside})
            raise ValueError(
                f"MODEL.SHARDING.BLOCKS: the backbone has no {' or '.join(sorted(missing))}; it has "
                f"{', '.join(classes) or 'no modules'}."
            )
        return found[::-1]  # inner ones before those around them
    innermost = [module for module in inside if _is_sequence(module) and not any(map(_is_sequence, _below(module)))]
    members = dict.fromkeys(member for sequence in innermost for member in sequence.children())
    return [member for member in members if next(member.parameters(), None) is not None]


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, (nn.Sequential, nn.ModuleList))


def _below(module: nn.Module) -> Iterator[nn.Module]:
    return (inner for inner in module.modules() if inner is not module)


def prepare_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Lets the optimizer of a sharded model resume from the states of whole parameters, which checkpoints hold."""
    if has_parts(model):
        load_whole_optimizer_states(optimizer)


def evaluation_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model itself, or a whole copy of one that is sharded; to be called in all processes.

    A sharded model gathers its blocks in every forward pass, in all processes at once; in an evaluation they see
    different numbers of images.
    """
    if not has_parts(model):
        return model
    with undisturbed():
        copy = build_model(cfg)
    copy.load_state_dict(whole(model.state_dict()))
    return copy.eval()
