"""The reassembly operator: every path against the definition, its gradients, layouts, types and how torch sees it."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densekit.ops.carafe import blocks as blocks_module
from densekit.ops.carafe import carafe
from tests.tolerances import close

PATHS = ("reference", "blocked")
FORMATS = (torch.contiguous_format, torch.channels_last)
ROOT = Path(__file__).resolve().parents[2]

# k, groups, scale, (N, C, H, W): windows of all sides, blocks that the edge cuts, images smaller than a block or window
CASES = [
    (5, 1, 2, (2, 6, 7, 9)),
    (5, 1, 2, (1, 3, 1, 1)),
    (3, 2, 2, (2, 8, 5, 4)),
    (7, 1, 2, (1, 4, 4, 6)),
    (1, 3, 2, (2, 3, 4, 5)),
    (5, 4, 3, (1, 8, 4, 4)),
    (5, 1, 4, (2, 4, 3, 5)),
    (3, 1, 1, (2, 4, 5, 37)),
    (3, 1, 5, (1, 2, 2, 3)),
    (4, 2, 2, (1, 4, 5, 6)),
    (2, 1, 2, (1, 2, 3, 8)),
]


def inputs(k, groups, scale, shape, dtype=torch.float64, memory_format=torch.contiguous_format):
    n, _, h, w = shape
    features = torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=memory_format)
    kernels = torch.rand(n, groups * k * k, scale * h, scale * w, dtype=torch.float64).to(dtype)
    return features.requires_grad_(), kernels.requires_grad_()


def by_definition(features, kernels, k, groups, scale):
    """Pixel by pixel, tap by tap."""
    n, c, h, w = features.shape
    output = torch.zeros(n, c, scale * h, scale * w, dtype=features.dtype)
    reach = (k - 1) // 2
    for i, channel, row, column in itertools.product(*map(range, output.shape)):
        group = channel // (c // groups)
        for dy, dx in itertools.product(range(k), range(k)):
            y, x = row // scale + dy - reach, column // scale + dx - reach
            if 0 <= y < h and 0 <= x < w:
                weight = kernels[i, (group * k + dy) * k + dx, row, column]
                output[i, channel, row, column] += features[i, channel, y, x] * weight
    return output


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("k", "groups", "scale", "shape"), [(*case[:3], (1, *case[3][1:])) for case in CASES[:7]])
def test_equals_the_definition(path, k, groups, scale, shape):
    features, kernels = (x.detach() for x in inputs(k, groups, scale, shape))
    expected = by_definition(features, kernels, k, groups, scale)
    torch.testing.assert_close(carafe(features, kernels, k, groups, scale, path=path), expected, **close(torch.float64))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("k", "groups", "scale", "shape"), CASES)
def test_blocks_agree_with_plain_operators(k, groups, scale, shape, memory_format):
    x = inputs(k, groups, scale, shape, memory_format=memory_format)
    results = {path: carafe(*x, k, groups, scale, path=path) for path in PATHS}
    torch.testing.assert_close(results["blocked"], results["reference"], **close(torch.float64))
    wanted = torch.randn_like(results["reference"]).contiguous(memory_format=memory_format)
    grads = {path: torch.autograd.grad(result, x, wanted) for path, result in results.items()}
    torch.testing.assert_close(grads["blocked"], grads["reference"], **close(torch.float64))


def test_records(reference_dir):
    for case in torch.load(reference_dir / "carafe.pt")["op"]:
        for path, memory_format in itertools.product(PATHS, FORMATS):
            features = case["x"].clone(memory_format=memory_format).requires_grad_()
            kernels = case["mask"].clone().requires_grad_()
            output = carafe(features, kernels, case["k"], case["group"], case["scale"], path=path)
            output.backward(case["grad_out"])
            for result, key in ((output, "out"), (features.grad, "grad_x"), (kernels.grad, "grad_mask")):
                torch.testing.assert_close(result.detach(), case[key], **close(torch.float64))


@pytest.mark.parametrize(
    ("k", "groups", "scale", "shape"), [CASES[2], (5, 1, 2, (1, 2, 3, 6)), (3, 1, 3, (1, 2, 2, 3))]
)
def test_gradcheck(k, groups, scale, shape):
    x = inputs(k, groups, scale, shape)
    assert torch.autograd.gradcheck(lambda *x: carafe(*x, k, groups, scale, path="blocked"), x, fast_mode=True)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(dtype, memory_format):
    case = (5, 2, 2, (2, 8, 6, 9))
    x = inputs(*case, dtype=dtype, memory_format=memory_format)
    exact = tuple(y.detach().double().requires_grad_() for y in x)
    output, expected = carafe(*x, *case[:3]), carafe(*exact, *case[:3], path="reference")
    assert output.dtype == dtype and output.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(output.double(), expected, **close(dtype))
    grads, wanted = torch.autograd.grad(output.sum(), x), torch.autograd.grad(expected.sum(), exact)
    for grad, want, like in zip(grads, wanted, x):
        assert grad.dtype == like.dtype
        torch.testing.assert_close(grad.double(), want, **close(dtype))


@pytest.mark.parametrize("path", PATHS)
def test_types_may_differ_and_sums_are_exact(path):
    """Half-precision features, float32 kernels: 49 products are not summed in half precision."""
    features = torch.ones(1, 1, 9, 9, dtype=torch.bfloat16)
    kernels = torch.full((1, 49, 18, 18), 0.0625) + 2**-10
    output = carafe(features, kernels, 7, path=path)
    assert output.dtype == torch.bfloat16
    assert output[0, 0, 8, 8] == torch.tensor(49 * (0.0625 + 2**-10), dtype=torch.bfloat16)


@pytest.mark.parametrize("bytes_per_chunk", [1, 20_000, 2**30])
def test_result_does_not_depend_on_the_chunks(monkeypatch, bytes_per_chunk):
    case = (5, 2, 2, (3, 8, 7, 10))
    x = inputs(*case)
    expected = carafe(*x, *case[:3], path="reference")
    wanted = torch.autograd.grad(expected.square().sum(), x)
    monkeypatch.setattr(blocks_module, "_CPU_CHUNK_BYTES", bytes_per_chunk)
    output = carafe(*x, *case[:3], path="blocked")
    torch.testing.assert_close(output, expected, **close(torch.float64))
    torch.testing.assert_close(torch.autograd.grad(output.square().sum(), x), wanted, **close(torch.float64))


def test_views_are_read_as_they_lie():
    """Slices, transposed kernels and gradients that autograd expands from one number."""
    large = torch.randn(2, 12, 9, 14, dtype=torch.float64)
    features = large[:, ::2, 1:8, 3:12].requires_grad_()
    kernels = torch.rand(2, 18, 14, 25, dtype=torch.float64).transpose(2, 3).flip(1)[:, :18, :18].transpose(2, 3)
    kernels = kernels.requires_grad_()
    for path in PATHS:
        output = carafe(features, kernels, 3, 2, 2, path=path)
        grads = torch.autograd.grad(output.sum(), (features, kernels))
        if path == "reference":
            expected, wanted = output, grads
    torch.testing.assert_close(output, expected, **close(torch.float64))
    torch.testing.assert_close(grads, wanted, **close(torch.float64))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 4, 0, 6), (2, 4, 5, 0)])
def test_empty(path, shape):
    features, kernels = inputs(5, 1, 2, shape)
    output = carafe(features, kernels, 5, path=path)
    assert output.shape == (shape[0], 4, 2 * shape[2], 2 * shape[3])
    output.sum().backward()
    assert features.grad.shape == features.shape and kernels.grad.shape == kernels.shape


def test_wrong_input_is_refused():
    features, kernels = inputs(5, 1, 2, (1, 6, 4, 4))
    with pytest.raises(ValueError, match=r"need \(1, 9, 8, 8\)"):
        carafe(features, kernels, 3)
    with pytest.raises(ValueError, match="groups=4"):
        carafe(features, kernels, 5, 4)
    with pytest.raises(ValueError, match="scale=0"):
        carafe(features, kernels, 5, 1, 0)
    with pytest.raises(ValueError, match="floating"):
        carafe(features.long(), kernels, 5)
    with pytest.raises(ValueError, match="path='fast'"):
        carafe(features, kernels, 5, path="fast")
    with pytest.raises(ValueError, match="CUDA"):
        carafe(features, kernels, 5, path="triton")


def test_only_the_inputs_are_kept_for_the_backward_pass():
    features, kernels = inputs(5, 1, 2, (2, 8, 12, 12), dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        carafe(features, kernels, 5)
    assert set(kept) <= {features.data_ptr(), kernels.data_ptr()}


def peak_bytes(function) -> int:
    """The most memory that torch's CPU allocator held above the start."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    held = itertools.accumulate(e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    return max(held)


def test_peak_memory():
    """At most three times the output's, forward and backward; an unfolded tensor is 25 times the output."""
    features, kernels = inputs(5, 1, 2, (1, 256, 50, 84), dtype=torch.float32)
    grad = torch.randn(1, 256, 100, 168)
    size = grad.numel() * 4
    assert size <= peak_bytes(lambda: carafe(features, kernels, 5)) <= 3 * size
    assert size <= peak_bytes(lambda: carafe(features, kernels, 5).backward(grad)) <= 3 * size


def test_torch_compile_keeps_the_call_whole():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, k: carafe(x * 2, k, 3) + 1, backend="aot_eager", fullgraph=True)
    for memory_format in FORMATS:
        x = inputs(3, 1, 2, (2, 4, 5, 6), memory_format=memory_format)
        output, expected = compiled(*x), carafe(x[0] * 2, x[1], 3) + 1
        assert output.stride() == expected.stride()
        torch.testing.assert_close(output, expected, **close(torch.float64))
        grads = torch.autograd.grad(output.sum(), x), torch.autograd.grad(expected.sum(), x)
        torch.testing.assert_close(*grads, **close(torch.float64))
    torch._dynamo.reset()


def test_torch_accepts_the_registration():
    x = inputs(3, 2, 2, (2, 4, 3, 5))
    checks = torch.library.opcheck(torch.ops.densekit.carafe.default, (*x, 3, 2, 2, "blocked"))
    assert set(checks.values()) == {"SUCCESS"}, checks


def test_autocast_does_not_round_the_sums():
    features, kernels = inputs(5, 1, 2, (1, 4, 6, 6), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = carafe(features, kernels, 5, path="blocked")
        grads = torch.autograd.grad(output.sum(), (features, kernels))
    expected = carafe(features, kernels, 5, path="reference")
    torch.testing.assert_close(output, expected, **close(torch.float32))
    wanted = torch.autograd.grad(expected.sum(), (features, kernels))
    torch.testing.assert_close(grads, wanted, **close(torch.float32))


def test_flops_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    x = inputs(5, 2, 2, (2, 4, 3, 5))
    with FlopCounterMode(display=False) as counter:
        carafe(*x, 5, 2, 2).sum().backward()
    assert counter.get_total_flops() == 3 * (2 * 25 * 2 * 4 * 6 * 10)


@pytest.mark.filterwarnings("ignore")
def test_onnx_export_by_plain_operators(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")

    class Net(torch.nn.Module):
        def forward(self, x, kernels):
            return carafe(x, kernels, 3, 2, 2)

    features, kernels = (x.detach() for x in inputs(3, 2, 2, (1, 4, 5, 6), dtype=torch.float32))
    path = str(tmp_path / "carafe.onnx")
    axes = {"x": {0: "n", 2: "h", 3: "w"}, "kernels": {0: "n", 2: "sh", 3: "sw"}}
    options = {"input_names": ["x", "kernels"], "dynamic_axes": axes, "opset_version": 17, "dynamo": False}
    torch.onnx.export(Net(), (features, kernels), path, **options)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = runtime.InferenceSession(path)
    features, kernels = (x.detach() for x in inputs(3, 2, 2, (2, 4, 3, 7), dtype=torch.float32))
    (output,) = session.run(None, {"x": features.numpy(), "kernels": kernels.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), carafe(features, kernels, 3, 2, 2), **close(torch.float32))


INTERPRETED = """
import torch
from densekit.ops.carafe import reference, triton_kernels
for k, groups, scale, shape, format in (
    (3, 2, 2, (2, 4, 3, 5), torch.contiguous_format), (2, 1, 3, (1, 3, 2, 3), torch.channels_last)
):
    n, c, h, w = shape
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=format).requires_grad_()
    kernels = torch.rand(n, groups * k * k, scale * h, scale * w, dtype=torch.float64, requires_grad=True)
    expected = reference.reassemble(x, kernels, k, groups, scale)
    grad = torch.randn_like(expected).contiguous(memory_format=format)
    wanted = torch.autograd.grad(expected, (x, kernels), grad)
    output = triton_kernels.forward(x.detach(), kernels.detach(), k, groups, scale)
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=1e-10)
    grads = triton_kernels.backward(grad, x.detach(), kernels.detach(), k, groups, scale)
    torch.testing.assert_close(grads, wanted, atol=1e-10, rtol=1e-10)
"""


def test_triton_kernels_in_the_interpreter():
    """The arithmetic and the indices of the CUDA path, on the CPU."""
    pytest.importorskip("triton")
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run([sys.executable, "-c", INTERPRETED], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("path", ["blocked", "triton"])
def test_cuda_paths(path, memory_format, dtype):
    for case in CASES:
        x = inputs(*case, dtype=dtype, memory_format=memory_format)
        on_gpu = tuple(y.detach().cuda().requires_grad_() for y in x)
        exact = tuple(y.detach().double().requires_grad_() for y in x)
        output, expected = carafe(*on_gpu, *case[:3], path=path), carafe(*exact, *case[:3], path="reference")
        torch.testing.assert_close(output.cpu().double(), expected, **close(dtype))
        grads, wanted = torch.autograd.grad(output.sum(), on_gpu), torch.autograd.grad(expected.sum(), exact)
        torch.testing.assert_close(tuple(g.cpu().double() for g in grads), wanted, **close(dtype))
