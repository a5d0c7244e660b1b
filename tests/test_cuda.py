"""ROIAlign on a GPU: the bits of the CPU, forward and backward, without a wait for the host."""

import numpy as np
import pytest
import torch
from helpers import run_python

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.parity.verdicts import same_bits

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


def run(op, features, rois, device):
    features = features.to(device, copy=True).requires_grad_()
    output = op(features, rois.to(device))
    output.float().square().sum().backward()
    return output.detach().cpu(), features.grad.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", [0, 1])
def test_the_boxes_that_adaptive_grids_are_tried_on_have_samples(mode, dtype):
    """On any machine: where a grid is empty, MindSpore's rule gives NaN."""
    output = ROIAlign(7, 5, 1 / 16, 0, mode)(FEATURES.to(dtype), LARGE_ROIS.to(dtype))
    assert len(output) == 60
    assert output.isfinite().all()


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("sample_num", [2, 5, 0])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradient_have_the_bits_of_the_cpu_in_every_run(memory_format, sample_num, mode, dtype):
    op, rois = ROIAlign(7, 5, 1 / 16, sample_num, mode), (ROIS if sample_num else LARGE_ROIS).to(dtype)
    features = FEATURES.to(dtype).to(memory_format=memory_format)
    expected, *found = (run(op, features, rois, device) for device in ("cpu", "cuda", "cuda"))
    for result in found:
        for tensor, of_cpu in zip(result, expected, strict=True):
            assert torch.equal(tensor, of_cpu)


@on_a_gpu
@pytest.mark.parametrize("make", [cases.random_case, cases.workload_case])
def test_random_cases_have_the_bits_of_the_cpu(make):
    values = 0
    for number in range(300 if make is cases.random_case else 6):
        case = make(7, number)
        expected = operators.port(case)
        tensors = torch.from_numpy(case.features).cuda(), torch.from_numpy(case.rois).cuda()
        output = ROIAlign(**case.arguments)(*tensors).cpu().numpy()
        assert same_bits(output, expected).all(), case.name
        values += output.size
    assert values > 1_000_000


@on_a_gpu
@pytest.mark.parametrize("sample_num", [2, 5, 0])
@pytest.mark.parametrize("backward_mode", [None, 1])
@pytest.mark.parametrize("mode", [0, 1])
def test_nothing_waits_for_the_host(mode, backward_mode, sample_num):
    op = ROIAlign(7, 5, 1 / 16, sample_num, mode, backward_mode)
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
@pytest.mark.parametrize("sample_num", [2, 0])
def test_compiled_is_eager(sample_num):
    op, rois = ROIAlign(7, 5, 1 / 16, sample_num, 0), LARGE_ROIS
    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend="aot_eager")
    (expected, expected_gradient), (output, gradient) = (run(pool, FEATURES, rois, "cuda") for pool in (op, compiled))
    assert torch.equal(output, expected)
    assert torch.equal(gradient, expected_gradient)


@on_a_gpu
@pytest.mark.parametrize("mode", [0, 1])
def test_deterministic_algorithms_have_the_gradient_of_the_cpu(mode):
    features, op = FEATURES.cuda().requires_grad_(), ROIAlign(7, 5, 1 / 16, 2, mode)
    on_cpu = FEATURES.clone().requires_grad_()
    op(on_cpu, ROIS).sum().backward()
    torch.use_deterministic_algorithms(True)
    try:
        op(features, ROIS.cuda()).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(features.grad.cpu(), on_cpu.grad)


@on_a_gpu
@pytest.mark.parametrize("mode", [0, 1])
def test_the_gradient_is_that_of_the_backward_mode(mode):
    _, expected = run(ROIAlign(7, 5, 1 / 16, 2, 1), FEATURES, ROIS, "cuda")
    _, gradient = run(ROIAlign(7, 5, 1 / 16, 2, 1, backward_roi_end_mode=mode), FEATURES, ROIS, "cuda")
    assert torch.equal(gradient, expected) == (mode == 1)


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
