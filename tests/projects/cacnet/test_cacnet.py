"""CaC-Net: a kernel computed by hand, the matrix product against loops, and properties."""

import pytest
import torch
from torch import nn

from densekit.projects.cacnet.context import ContextAdaptiveConvolution, PredictedKernels, depthwise


def kernels_by_loops(module: PredictedKernels, x):
    """Every tap of every kernel as a sum over positions."""
    count, channels, height, width = x.shape
    key, query = module.key(x), module.query(x)
    out = torch.zeros(count, channels, module.kernel, module.kernel, dtype=x.dtype)
    for n in range(count):
        for c in range(channels):
            for tap in range(module.kernel**2):
                total = sum(key[n, c, i, j] * query[n, tap, i, j] for i in range(height) for j in range(width))
                out[n, c, tap // module.kernel, tap % module.kernel] = total / (height * width)
    return module.norm(out)


def test_kernels_are_sums_over_all_positions():
    module = PredictedKernels(3, 3, norm=nn.Identity, softmax=False).double()
    module.norm = nn.Identity()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), kernels_by_loops(module, x))


def test_kernel_by_hand():
    """Keys 1, 2, 3, 4 at four positions and a query that looks at the last one only: each tap is 4 / 4 = 1."""
    module = PredictedKernels(1, 1, norm=nn.Identity, softmax=False)
    module.norm = nn.Identity()
    with torch.no_grad():
        module.key.weight.fill_(1.0), module.key.bias.zero_()
        module.query.weight.fill_(1.0), module.query.bias.fill_(-3.0)  # -2, -1, 0, 1
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = (1 * -2 + 2 * -1 + 3 * 0 + 4 * 1) / 4
    assert module(x).item() == pytest.approx(expected)


def test_softmax_makes_means_of_the_keys():
    module = PredictedKernels(2, 3, norm=nn.Identity, softmax=True)
    module.norm = nn.Identity()
    with torch.no_grad():
        module.query.weight.zero_()
    x = torch.randn(1, 2, 5, 4)
    expected = module.key(x).mean(dim=(2, 3))[..., None, None].expand(1, 2, 3, 3)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_depthwise_convolution_of_each_image_by_its_own_kernels(dilation):
    x, kernels = torch.randn(3, 2, 6, 7), torch.randn(3, 2, 3, 3)
    expected = torch.stack(
        [
            torch.nn.functional.conv2d(image[None], own[:, None], padding=dilation, dilation=dilation, groups=2)[0]
            for image, own in zip(x, kernels)
        ]
    )
    torch.testing.assert_close(depthwise(x, kernels, dilation), expected)


def make(**options):
    return ContextAdaptiveConvolution(4, norm=lambda channels: nn.GroupNorm(2, channels), **options)


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"softmax": True}, {"sigmoid_first": True}, {"kernel": 1}])
def test_gradients(options):
    module = make(dilations=(1, 2), **options).double()
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


def test_images_do_not_see_each_other():
    module, x = make().eval(), torch.randn(3, 4, 6, 5)
    torch.testing.assert_close(module(x), torch.cat([module(image[None]) for image in x]))


def test_channels_that_change_places_do_so_in_the_output():
    module, order = make(), torch.tensor([1, 0, 3, 2])  # within the groups of the norm
    x = torch.randn(1, 4, 5, 5)
    expected = module(x)[:, order]
    with torch.no_grad():
        for kernels in module.kernels:
            kernels.key.weight.copy_(kernels.key.weight[order][:, order])
            kernels.key.bias.copy_(kernels.key.bias[order])
            kernels.query.weight.copy_(kernels.query.weight[:, order])
    torch.testing.assert_close(module(x[:, order]), expected, atol=1e-5, rtol=1e-5)


def test_reweighting_keeps_zeros_and_never_enlarges():
    x = torch.randn(2, 4, 6, 5)
    x[:, 1] = 0
    out = make()(x)
    assert torch.equal(out[:, 1], x[:, 1]) and bool((out.abs() <= x.abs()).all())


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match=r"KERNEL is 4; a kernel with a centre has an odd side"):
        make(kernel=4)


@pytest.mark.filterwarnings("ignore")
def test_exported_module_agrees_at_other_sizes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = make(dilations=(1, 3)).eval()
    file, sides = tmp_path / "context.onnx", {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        module,
        (torch.randn(1, 4, 12, 16),),
        file,
        dynamo=True,
        dynamic_shapes={"x": sides},
        optimize=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file)
    for size in ((16, 12), (9, 21)):
        x = torch.randn(1, 4, *size)
        (exported,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(exported), module(x).detach(), atol=1e-5, rtol=1e-5)
