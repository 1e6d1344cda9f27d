"""Time and memory of CARAFE's reassembly against the common way to write it, unfolding and an einsum.

The two take turns, and which goes first alternates; ratios are taken within each round and their median reported. Peak
memory is what torch's allocator held above the inputs. Example::

    python benchmarks/carafe.py --rounds 9 --threads 2
    python benchmarks/carafe.py --device cuda       # Triton against the portable path and against the memory's speed
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.ops.carafe import carafe

Work = Callable[[], object]


def unfold_einsum(features: Tensor, kernels: Tensor, k_up: int, scale: int) -> Tensor:
    """Every output pixel's window in memory, then one product."""
    n, c, h, w = features.shape
    enlarged = F.interpolate(features, scale_factor=float(scale), mode="nearest")
    windows = F.unfold(enlarged, k_up, dilation=scale, padding=scale * (k_up // 2))
    windows = windows.view(n, c, k_up**2, scale * h, scale * w)
    return torch.einsum("nkhw,nckhw->nchw", kernels, windows)


def seconds(work: Work, device: str) -> float:
    if device == "cpu":
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(20):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 20e3


def peak_bytes(work: Work, device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def print_rows(label: str, works: dict[str, Work], rounds: int, device: str, output_bytes: int) -> None:
    """Medians of every work, and their ratio to the last one's."""
    names = list(works)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            spent = seconds(works[name], device)
            if turn:  # the first round warms up
                times[name].append(spent)
    for name in names:
        ratios = [theirs / own for own, theirs in zip(times[name], times[names[-1]])]
        memory = peak_bytes(works[name], device) / output_bytes
        print(
            f"{label:20}{name:16}{statistics.median(times[name]) * 1e3:10.3f} ms{statistics.median(ratios):9.1f} x"
            f"   ({min(ratios):.1f} to {max(ratios):.1f}){memory:8.2f} outputs",
            flush=True,
        )


def print_bandwidth(inputs: tuple[Tensor, Tensor], grad: Tensor, works: dict[str, Work], rounds: int) -> None:
    """Prints a path's bandwidth as a share of a copy's, if it read its inputs and wrote its output once."""
    large = torch.empty(2**28, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(large)
    copy = statistics.median(seconds(lambda: target.copy_(large), "cuda") for _ in range(rounds + 1))
    speed = 2 * large.numel() / copy
    must = sum(x.numel() * x.element_size() for x in (*inputs, grad))
    for name, work in works.items():
        spent = statistics.median(seconds(work, "cuda") for _ in range(rounds + 1))
        print(f"forward, {name}: {must / spent / speed:.0%} of the copy's {speed / 1e9:.0f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", type=int, nargs=4, default=(1, 256, 50, 84), metavar=("N", "C", "H", "W"))
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--k-up", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "float64"), default="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    (n, c, h, w), s, k = args.size, args.scale, args.k_up
    options = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    kernels = torch.randn(n, k * k, s * h, s * w, **options).softmax(dim=1).requires_grad_()
    grad = torch.randn(n, c, s * h, s * w, **options)
    print(f"{n} x {c} x {h} x {w}, scale {s}, k {k}, {args.dtype}, {args.device}, {args.threads} threads, ", end="")
    print(f"torch {torch.__version__}, {args.rounds} rounds")
    for memory_format, name in (
        (torch.contiguous_format, "channel by channel"),
        (torch.channels_last, "pixel by pixel"),
    ):
        features = torch.randn(n, c, h, w, **options).contiguous(memory_format=memory_format).requires_grad_()
        paths = ("triton", "blocked") if args.device == "cuda" else ("blocked",)
        forwards: dict[str, Callable[[], Tensor]] = {
            path: lambda path=path, x=features: carafe(x, kernels, k, 1, s, path=path) for path in paths
        }
        forwards["unfold + einsum"] = lambda x=features: unfold_einsum(x, kernels, k, s)
        torch.testing.assert_close(
            forwards[paths[0]]().double(), forwards["unfold + einsum"]().double(), atol=1e-2, rtol=1e-2
        )
        inputs = (features, kernels)
        both: dict[str, Work] = {
            path: lambda forward=forward, x=inputs: torch.autograd.grad(forward(), x, grad)
            for path, forward in forwards.items()
        }
        size = grad.numel() * grad.element_size()
        print(f"Features {name}:")
        with torch.no_grad():
            print_rows("forward", dict(forwards), args.rounds, args.device, size)
        print_rows("forward + backward", both, args.rounds, args.device, size)
        if args.device == "cuda":
            with torch.no_grad():
                print_bandwidth(inputs, grad, {path: forwards[path] for path in paths}, args.rounds)


if __name__ == "__main__":
    main()
