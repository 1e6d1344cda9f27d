"""An argument of torch's DistributedDataParallel that versions of torch name differently."""

from inspect import signature

from torch.nn.parallel import DistributedDataParallel


def own_buffers() -> dict[str, bool]:
    """The argument that leaves each process its own buffers, as running averages of BatchNorm, in every forward pass.

    Torch versions that know its newer name warn of the older one; they still begin with the buffers of the first
    process everywhere.
    """
    names = signature(DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}
