"""ROIAlign on a GPU: one torchvision call without a wait for the host, within a bound of the CPU's bits."""

import numpy as np
import pytest
import torch
from helpers import run_python

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import cases, operators

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")

FEATURES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 50, 76)).astype(np.float32))


def some_rois(count, seed=0, smallest=10**-0.8):
    """Return boxes of so many pixels and more, up to the whole image of 1215 x 799, at a scale of 1/16."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 1, (count, 2)) * np.subtract((1215, 799), smallest)
    end = np.minimum(start + smallest * (1000 / smallest) ** rng.uniform(0, 1, (count, 2)), (1215, 799))
    return torch.from_numpy(np.hstack((rng.integers(0, 2, (count, 1)), start, end)).astype(np.float32))


ROIS = some_rois(300)
# 7 bins of a cell are the smallest box whose adaptive grid is not empty, whatever float16 rounds off.
LARGE_ROIS = some_rois(60, smallest=7.5 * 16)
# The bound of traced programs (test_traced.py), and as much again for the GPU's fused multiplications and additions:
# 64 roundings of a coordinate, of up to 76 cells, relative to the largest feature.
BOUND = {torch.float32: 64 * 76 * 2.0**-24, torch.float16: 64 * 76 * 2.0**-11}


def run(op, features, rois, device):
    features = features.to(device, copy=True).requires_grad_()
    output = op(features, rois.to(device))
    output.float().square().sum().backward()
    return output.detach().cpu().float(), features.grad.cpu().float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", [0, 1])
def test_the_boxes_that_adaptive_grids_are_tried_on_have_samples(mode, dtype):
    """On any machine: where a grid is empty, MindSpore's rule gives NaN."""
    output = ROIAlign(7, 5, 1 / 16, 0, mode)(FEATURES.to(dtype), LARGE_ROIS.to(dtype))
    assert len(output) == 60
    assert output.isfinite().all()


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("sample_num", [2, 0])
def test_output_and_gradient_are_within_the_bound_of_the_cpu(sample_num, mode, dtype):
    op, rois = ROIAlign(7, 5, 1 / 16, sample_num, mode), (ROIS if sample_num else LARGE_ROIS).to(dtype)
    (expected, expected_gradient), (output, gradient) = (run(op, FEATURES.to(dtype), rois, d) for d in ("cpu", "cuda"))
    assert (output - expected).abs().max() <= BOUND[dtype] * FEATURES.abs().max()
    # The sums of the gradient have an order of their own, which changes from run to run.
    order = {torch.float32: 1e-5, torch.float16: 0.05}[dtype]
    assert (gradient - expected_gradient).abs().max() <= (BOUND[dtype] + order) * expected_gradient.abs().max()


@on_a_gpu
def test_random_cases_differ_from_the_cpu_on_the_border_at_most():
    values = different = 0
    for number in range(300):
        case = cases.random_case(7, number)
        if case.dtype != np.float32 or case.sample_num <= 0:
            continue
        expected = torch.from_numpy(operators.port(case)).float()
        tensors = torch.from_numpy(case.features).cuda(), torch.from_numpy(case.rois).cuda()
        output = ROIAlign(**case.arguments)(*tensors).cpu().float()
        assert output.isfinite().all()
        values += output.numel()
        different += ((output - expected).abs() > 1e-3).sum().item()
    assert values > 100_000
    assert different / values < 1e-4


@on_a_gpu
@pytest.mark.parametrize("backward_mode", [None, 1])
@pytest.mark.parametrize("mode", [0, 1])
def test_nothing_waits_for_the_host(mode, backward_mode):
    op = ROIAlign(7, 5, 1 / 16, 2, mode, backward_mode)
    features, rois = FEATURES.cuda().requires_grad_(), ROIS.cuda()
    op(features, rois).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        op(features, rois).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
def test_a_cuda_graph_can_be_captured_and_takes_new_rois():
    op, features, rois = ROIAlign(7, 5, 1 / 16), FEATURES.cuda(), ROIS.cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        op(features, rois)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = op(features, rois)
    rois.copy_(some_rois(300, seed=1))
    graph.replay()
    assert torch.equal(output, op(features, rois))


@on_a_gpu
def test_compiled():
    op, features, rois = ROIAlign(7, 5, 1 / 16), FEATURES.cuda(), ROIS.cuda()
    compiled = torch.compile(op, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(features, rois), op(features, rois), rtol=0, atol=BOUND[torch.float32])


@on_a_gpu
def test_autocast():
    op = ROIAlign(7, 5, 1 / 16)
    for dtype in (torch.float16, torch.bfloat16):
        features, rois = FEATURES.cuda().to(dtype), ROIS.cuda()
        expected = op(features, rois)
        with torch.autocast("cuda", dtype=torch.float16):
            assert torch.equal(op(features, rois), expected)
        assert expected.dtype == dtype


@on_a_gpu
@pytest.mark.parametrize("index", [2, -1, -0.5])
def test_a_bad_index_is_a_device_side_assertion(index):
    code = (
        "import torch\nfrom ms2torch_roi import ROIAlign\n"
        f"rois = torch.tensor([[0, 1, 1, 9, 9], [{index}, 1, 1, 9, 9.0]]).cuda()\n"
        "print(ROIAlign(2, 2, 0.5)(torch.ones(2, 3, 8, 8).cuda(), rois).sum().item())"
    )
    result = run_python(code)
    assert result.returncode != 0
    assert "device-side assert" in result.stderr


@on_a_gpu
def test_rois_on_another_device_are_refused():
    op = ROIAlign(7, 5, 1 / 16)
    for features, rois, match in (
        (FEATURES.cuda(), ROIS, "features are on cuda:0 but rois on cpu"),
        (FEATURES, ROIS.cuda(), "features are on cpu but rois on cuda:0"),
        (FEATURES.cuda(), ROIS.numpy(), "features are on cuda:0 but rois on cpu"),
    ):
        with pytest.raises(ValueError, match=match):
            op(features, rois)


@on_a_gpu
@pytest.mark.parametrize("sample_num", [2, 0])
def test_exact_or_not_is_the_same(sample_num):
    found = [run(ROIAlign(7, 7, 1 / 16, sample_num, exact=exact), FEATURES, ROIS, "cuda") for exact in (True, False)]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-5, equal_nan=True)  # added up in any order
