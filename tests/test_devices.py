"""The rules of MindSpore on other devices: published numbers, and kernels written down from their sources."""

import dataclasses

import numpy as np
import pytest
import torch
from device_kernels import KERNELS
from helpers import assert_same_bits

from ms2torch_roi import ROIAlign, devices, params, reference, rules, sampling
from ms2torch_roi.parity.identification import hypotheses

X6 = np.arange(1, 37, dtype=np.float32).reshape(1, 1, 6, 6)
X2 = np.array([[[[1, 2], [3, 4]]]], np.float32)
MODES_OF_ASCEND = [(rule, mode) for rule in KERNELS for mode in range(params.MODES[rule])]


@dataclasses.dataclass(frozen=True)
class Published:
    """A call whose output is published: by whom, and the rules that give it, in all others another output."""

    source: str
    features: np.ndarray
    arguments: tuple
    roi: list
    output: list
    rules: set
    of_others: dict = dataclasses.field(default_factory=dict)


EVERY = {"cpu", "gpu", "ascend-static", "ascend-dynamic", "ascend-950"}
ASCEND = EVERY - {"cpu", "gpu"}

# The numbers of the sources, by what a reader finds them under.
PUBLISHED = [
    Published(
        "torch_npu's example", X6, (3, 3, 0.25, 2, 0), [0, -2, -2, 22, 22],
        [[4.5, 6.5, 8.5], [16.5, 18.5, 20.5], [28.5, 30.5, 32.5]], EVERY,
    ),
    Published(
        "MindSpore's CPU test, mode 1", X6, (3, 3, 0.25, 2, 1), [0, -2, -2, 21, 21],
        [[4.5, 6.5, 8.5], [16.5, 18.5, 20.5], [28.5, 30.5, 32.5]], EVERY - {"ascend-950"},
    ),
    Published(
        "MindSpore's CPU test, adaptive", X6, (2, 2, 1.0, -1, 0), [0, -2, -2, 22, 22],
        [[6.295139, 0], [0, 0]], EVERY,
    ),
    Published(
        "MindSpore's page of the Ascend-only era, 1 x 1", X2, (1, 1, 0.5, 2, 1), [0, 0.2, 0.3, 0.2, 0.3],
        [[2.15]], {"cpu", "gpu", "ascend-static"}, {"ascend-dynamic": [[2.9]], "ascend-950": [[3.825]]},
    ),
    Published(
        "MindSpore's page, 2 x 2", X2, (2, 2, 0.5, 2, 1), [0, 0.2, 0.3, 0.2, 0.3],
        [[1.775, 2.025], [2.275, 2.525]], {"cpu", "gpu", "ascend-static"},
        {"ascend-dynamic": [[2.15, 2.65], [3.125, 3.625]], "ascend-950": [[3.625, 3.775], [3.85, 4.0]]},
    ),
    Published(
        "a test of ops.roi_align on an NPU, aligned", X6, (2, 2, 0.25, 2, 2), [0, 2, 2, 22, 22],
        [[9.75, 12.25], [24.75, 27.25]], ASCEND,
    ),
    Published(
        "the same, not aligned", X6, (3, 3, 0.25, 2, 0), [0, 3, 3, 21, 21],
        [[11.5, 13, 14.5], [20.5, 22, 23.5], [29.5, 31, 32.5]], EVERY,
    ),
    Published(
        "the same, aligned and adaptive", X6, (2, 2, 1.0, -1, 2), [0, 2, 2, 6, 6],
        [[18.5, 20.5], [30.5, 32.5]], ASCEND,
    ),
]  # fmt: skip

# Where tests of MindSpore's GPU kernel of 2020 and these rules part.
GPU_OF_2020 = [
    ((3, 3, 0.25, 2, 1), [0, -2, -2, 22, 22], [[2.75, 4.5, 6.5], [13.25, 15, 17], [25.25, 27, 29]]),
    (
        (4, 4, 0.2, 3, 1), [0, -2, -2, 22, 22],
        [[1.2333, 2.1, 3.3, 4.5], [6.4333, 7.3, 8.5, 9.7], [13.6333, 14.5, 15.7, 16.9], [20.8333, 21.7, 22.9, 24.1]],
    ),
    ((3, 3, 0.3, 3, 1), [0, 1, 0, 19, 18], [[4.5, 6.3, 8.1], [14.9, 16.7, 18.5], [25.7, 27.5, 29.3]]),
    (
        (3, 3, 0.3, 3, 1), [0, -2, -2, 22, 22],
        [[3.3333, 5.5, 7.6667], [16.3333, 18.5, 20.6667], [29.3333, 31.5, 33.6667]],
    ),
    ((2, 2, 1.0, -1, 1), [0, -2, -2, 22, 22], [[4.625, 0], [0, 0]]),
]  # fmt: skip


def pooled(rule, features, arguments, roi):
    """Return what the module gives, which the reference gives too."""
    rois = np.array([roi], np.float32)
    output = ROIAlign(*arguments, rule=rule)(features, rois)
    assert_same_bits(output, reference.ms_roi_align(features, rois, *arguments, rule=rule))
    return output[0, 0]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.source)
def test_published_numbers_are_those_of_the_rules_that_claim_them_and_of_no_other(published):
    for rule in EVERY:
        if published.arguments[-1] >= params.MODES[rule]:
            continue
        output = pooled(rule, published.features, published.arguments, published.roi)
        assert np.allclose(output, published.output, rtol=1e-6) == (rule in published.rules), rule
        if rule in published.of_others:
            np.testing.assert_allclose(output, published.of_others[rule], rtol=1e-6)


@pytest.mark.parametrize(("arguments", "roi", "output"), GPU_OF_2020)
def test_numbers_of_the_gpu_kernel_of_2020_are_of_no_rule_but_its_own(arguments, roi, output):
    for rule in EVERY:
        assert not np.allclose(pooled(rule, X6, arguments, roi), output, rtol=1e-4), rule
    (kernel,) = (one for one in hypotheses() if one.name == "MindSpore's GPU of 2020")
    assert np.allclose(of_rule(kernel.outputs[1], X6, arguments, roi), output, atol=1e-3)


def of_rule(rule, features, arguments, roi):
    pooled_height, pooled_width, scale, sample_num, _ = arguments
    size = (pooled_height, pooled_width)
    samples = rules.place(rule, np.array([roi], np.float32), scale, size, sample_num, features.shape[2:])
    return sampling.pool(features, samples, size)[0, 0]


# Boxes that no two kernels treat alike: of a sample on the border, left of the image, below one cell, inverted, with an
# index between two images, and with an adaptive grid of a box without size.
PROBES = {
    "a sample on the border": ((1, 1, 1.0, 1, 0), [0, 5, 5, 7, 7], {"cpu": 36, "ascend-static": 0}),
    "a sample left of the image": ((1, 1, 1.0, 1, 0), [0, -1, -1, 0, 0], {}),
    "a small box of mode 0": ((1, 1, 1.0, 1, 0), [0, 2, 2, 2.2, 2.2], {}),
    "an inverted box": (
        (1, 1, 1.0, 2, 1), [0, 3, 3, 1, 1],
        {"cpu": 18.5, "ascend-static": 22, "ascend-dynamic": 25.5, "ascend-950": 32.5},
    ),
    "a box around the corner": ((1, 1, 1.0, 4, 0), [0, -3, -3, 1, 1], {}),
    "half a cell": ((1, 1, 0.5, 1, 1), [0, 2, 2, 6, 6], {"cpu": 16.75, "ascend-950": 18.5}),
    "an adaptive grid below one": (
        (2, 2, 0.5, -1, 1), [0, 4, 4, 4, 4],
        {"cpu": np.nan, "ascend-static": 15.875, "ascend-dynamic": 16.75, "ascend-950": 20.25},
    ),
    "an adaptive grid": (
        (2, 2, 1.0, -1, 1), [0, -2, -2, 22, 22],
        {"cpu": 6.614136, "ascend-static": 5.112963, "ascend-dynamic": 5.112963, "ascend-950": 6.295139},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "roi", "outputs"), PROBES.values(), ids=PROBES)
def test_probes_tell_rules_apart(arguments, roi, outputs):
    for rule in EVERY:
        output = pooled(rule, X6, arguments, roi)
        expected = outputs.get("cpu" if rule == "gpu" else rule)
        if expected is not None:
            np.testing.assert_allclose(output[0, 0], expected, rtol=2e-5)
        if rule in KERNELS:
            of_kernel = KERNELS[rule](X6.astype(float), [*roi], arguments[:2], *arguments[2:])
            np.testing.assert_allclose(output, of_kernel[0], rtol=1e-6)


def some_calls(rule, mode, count):
    """Yield random calls: eighths of a cell and powers of two, which every order of operations has exactly."""
    rng = np.random.default_rng([mode, *rule.encode()])
    while count:
        height, width = rng.integers(1, 8, 2)
        features = rng.integers(-64, 64, (3, 2, height, width)) / 8
        scale, pooled = 2.0 ** -rng.integers(0, 4), tuple(2 ** rng.integers(0, 3, 2).tolist()[i] for i in (0, 1))
        start = rng.integers(-12, [8 * width + 2, 8 * height + 2]) / 8
        size = rng.integers(-12, 8 * 9, 2) / rng.choice([8, 32])
        start[rng.random(2) < 0.1] = -1
        size = np.where(rng.random(2) < 0.2, np.array([width, height]) - start, size)
        index = rng.integers(0, 3) if rng.random() < 0.7 else rng.integers(0, 9) / 4
        roi = [index, *start / scale, *(start + size) / scale]
        arguments = (*pooled, float(scale), int(rng.choice([1, 2, 4, 0])), mode)
        count -= 1
        yield features, roi, arguments


@pytest.mark.parametrize(("rule", "mode"), MODES_OF_ASCEND)
def test_a_rule_is_that_of_its_kernel(rule, mode):
    if rule == "ascend-static" and mode > 1:
        pytest.skip("which is another kernel, that no source has in full")
    compared = 0
    for features, roi, arguments in some_calls(rule, mode, 1000):
        try:
            expected = KERNELS[rule](features, roi, arguments[:2], *arguments[2:])
        except ZeroDivisionError:  # the static kernel divides by 0: undefined, and NaN here
            expected = np.full((2, *arguments[:2]), np.nan)
        rois = np.array([roi], np.float32)
        output = ROIAlign(*arguments, rule=rule)(features.astype(np.float32), rois)
        np.testing.assert_allclose(output[0], expected, rtol=1e-5, atol=1e-5, err_msg=f"{roi}, {arguments}")
        compared += np.isfinite(expected).all() and bool(expected.any())
    assert compared > 500


@pytest.mark.parametrize(("rule", "mode"), MODES_OF_ASCEND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_road_has_the_values_of_the_reference(rule, mode, dtype):
    rng = np.random.default_rng(mode)
    features = torch.from_numpy(rng.standard_normal((2, 20, 30, 40)).astype(np.float32)).to(dtype)
    for count, sample_num in ((5, 2), (300, 2), (60, 0)):
        start = rng.uniform(-100, 900, (count, 2))
        rois = np.hstack((rng.integers(0, 2, (count, 1)), start, start + rng.uniform(-20, 500, (count, 2))))
        rois[::9, 1:] = 0
        rois = torch.from_numpy(rois).to(dtype)
        output = ROIAlign(7, 5, 1 / 16, sample_num, mode, rule=rule)(features, rois)
        expected = reference.ms_roi_align(features.numpy(), rois.numpy(), 7, 5, 1 / 16, sample_num, mode, rule=rule)
        assert_same_bits(output.numpy(), expected)
        assert output.dtype == dtype


@pytest.mark.parametrize("backward", [{}, {"backward_roi_end_mode": 1}, {"backward_rule": "ascend-dynamic"}])
def test_the_gradient_is_of_the_rule_that_is_asked_for(backward):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((1, 3, 20, 30)).astype(np.float32)).requires_grad_()
    rois = torch.tensor([[0.0, 20, 30, 22, 33], [0, 9, 9, 9, 9], [0, 50, 40, 20, 90], [0, 5, 5, 480, 319]])
    weights = torch.from_numpy(rng.standard_normal((4, 3, 2, 2)).astype(np.float32))
    ROIAlign(2, 2, 1 / 16, 2, 0, rule="ascend-static", **backward)(features, rois).backward(weights)
    rule = {
        (): rules.DEVICES["ascend-static"][0],
        ("backward_roi_end_mode",): rules.GRADIENTS["ascend-static"][1],
        ("backward_rule",): rules.GRADIENTS["ascend-dynamic"][1],
    }[tuple(backward)]
    samples = rules.place(rule, rois.numpy(), 1 / 16, (2, 2), 2, (20, 30))
    assert_same_bits(features.grad.numpy(), sampling.gradient(weights.numpy(), samples, features.shape))


@pytest.mark.parametrize("way", ["eager", "compiled", "torch.func", "exported"])
@pytest.mark.parametrize("rows", [6, 600])
@pytest.mark.parametrize(
    ("rule", "backward_rule"),
    [("ascend-static", "ascend-dynamic"), ("ascend-dynamic", "cpu"), ("ascend-dynamic", "ascend-static")],
)
def test_float16_is_computed_each_way_in_what_its_rule_is(rule, backward_rule, rows, way):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 16, 50, 76)).astype(np.float16)
    corners = rng.uniform([0, 0, 600, 200], [600, 600, 1200, 800], (rows, 4))
    rois = np.hstack((np.zeros((rows, 1)), corners)).astype(np.float16)
    of_output = rng.standard_normal((rows, 16, 7, 7)).astype(np.float16)
    forward, backward = rules.DEVICES[rule][1], rules.GRADIENTS[backward_rule][1]
    assert {forward.dtype, backward.dtype} == {None, "float32"}

    def placed(rule):
        dtype = rules.computed_in(rule, "float16")
        return dtype, rules.place(rule, rois.astype(dtype), 1 / 16, (7, 7), 2, (50, 76))

    dtype, samples = placed(forward)
    expected = sampling.pool(features.astype(dtype), samples, (7, 7)).astype(np.float16)
    dtype, samples = placed(backward)
    expected_gradient = sampling.gradient(of_output.astype(dtype), samples, features.shape).astype(np.float16)

    module = ROIAlign(7, 7, 1 / 16, 2, 1, rule=rule, backward_rule=backward_rule)
    inputs = torch.from_numpy(features).requires_grad_(), torch.from_numpy(rois)
    if way == "torch.func":
        output, gradient_of = torch.func.vjp(lambda features: module(features, inputs[1]), inputs[0].detach())
        assert_same_bits(gradient_of(torch.from_numpy(of_output))[0].numpy(), expected_gradient)
    else:
        call = torch.compile(module, fullgraph=True, backend="aot_eager") if way == "compiled" else module
        if way == "exported":
            call = torch.export.export(module, inputs).module()
        output = call(*inputs)
        output.backward(torch.from_numpy(of_output))
        if way == "exported":  # in torchvision's sums, of boxes that may be half a cell elsewhere to the last digits
            apart = np.abs(inputs[0].grad.numpy().astype(float) - expected_gradient)
            assert apart.max() < 0.02 * np.abs(expected_gradient).max()
        else:
            assert_same_bits(inputs[0].grad.numpy(), expected_gradient)
    if way != "exported":
        assert_same_bits(output.detach().numpy(), expected)


def test_the_static_gradient_is_not_the_derivative_of_the_static_kernel():
    """MindSpore's gradient on Ascend is another kernel's: of a box below a cell, and of a sample on the border."""
    forward, backward = rules.DEVICES["ascend-static"][1], rules.GRADIENTS["ascend-static"][1]
    assert (forward.smallest, backward.smallest) == (0, 0)
    assert (forward.border, backward.border) == ("[-1, n)", "[-1, n]")
    assert rules.GRADIENTS["ascend-dynamic"] == rules.DEVICES["ascend-dynamic"]


def test_the_published_gradient_is_that_of_mode_1():
    of_output = torch.tensor([[0.1, 0.2, 0.3]] * 3).reshape(1, 1, 3, 3)
    for rule in ("cpu", "ascend-static", "ascend-dynamic", "ascend-950"):
        features = torch.zeros(1, 1, 6, 6, requires_grad=True)
        ROIAlign(3, 3, 0.25, 2, 1, backward_rule=rule)(features, torch.tensor([[0.0, -2, -2, 21, 21]])).backward(
            of_output
        )
        np.testing.assert_allclose(
            features.grad[0, 0].numpy(), [[0.025, 0.025, 0.05, 0.05, 0.075, 0.075]] * 6, rtol=1e-5
        )


def test_the_published_gradient_of_aclnn_is_that_of_mode_0_and_not_of_mode_1():
    of_output = torch.tensor([[4.5, 6.5, 8.5], [16.5, 18.5, 20.5], [28.5, 30.5, 32.5]]).reshape(1, 1, 3, 3)
    for rule in params.MODES:
        for mode in (0, 1):
            features = torch.zeros(1, 1, 6, 6, requires_grad=True)
            module = ROIAlign(3, 3, 0.25, 2, 0, backward_rule=rule, backward_roi_end_mode=mode)
            module(features, torch.tensor([[0.0, -2, -2, 22, 22]])).backward(of_output)
            published = [[1.125, 1.125, 1.625, 1.625, 2.125, 2.125]] * 2
            assert np.allclose(features.grad[0, 0, :2], published, rtol=1e-5) == (mode == 0), (rule, mode)


def test_params_and_rules_name_the_same_devices():
    assert {device: len(modes) for device, modes in rules.DEVICES.items()} == params.MODES
    assert {device: len(modes) for device, modes in rules.GRADIENTS.items()} == params.MODES
    assert rules.DEVICES["gpu"] is rules.DEVICES["cpu"]
    assert rules.GRADIENTS["ascend-950"] == rules.DEVICES["ascend-dynamic"]


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"rule": "npu"}, ValueError, r"rule must be one of 'cpu', 'gpu', .*, got 'npu'"),
        ({"rule": None}, TypeError, "rule must be of type str, got None"),
        ({"roi_end_mode": 2}, ValueError, "roi_end_mode must be 0 or 1, got 2 .* 'ascend-static', 'ascend-dynamic'"),
        ({"roi_end_mode": 4, "rule": "ascend-static"}, ValueError, "must be 0, 1, 2 or 3, got 4"),
        (
            {"backward_rule": "gpu", "backward_roi_end_mode": 3},
            ValueError,
            "backward_roi_end_mode must be None, 0 or 1, got 3",
        ),
        ({"backward_rule": ""}, ValueError, "backward_rule must be one of"),
    ],
)
def test_rules_and_modes_that_do_not_exist_are_refused(keywords, error, message):
    with pytest.raises(error, match=message):
        ROIAlign(2, 2, 0.5, **keywords)


def test_repr_has_the_rule():
    assert "rule='ascend-static', backward_rule='ascend-dynamic'" in repr(
        ROIAlign(2, 2, 0.5, rule="ascend-static", backward_rule="ascend-dynamic")
    )
    assert "rule" not in repr(ROIAlign(2, 2, 0.5))


def test_a_batch_of_calls_and_a_compiled_program_have_the_rule():
    module = ROIAlign(2, 3, 0.25, 2, 1, rule="ascend-static")
    features = torch.randn(4, 2, 3, 12, 12)
    rois = torch.rand(4, 6, 5) * torch.tensor([0.9, 40, 40, 40, 40])  # an index above 0 is of the next image
    batch = torch.vmap(module)(features, rois)
    for number in range(4):
        assert_same_bits(batch[number].numpy(), module(features[number], rois[number]).numpy())
    compiled = torch.compile(module, fullgraph=True)
    assert_same_bits(compiled(features[0], rois[0]).numpy(), batch[0].numpy())


@pytest.mark.parametrize(("rule", "mode"), MODES_OF_ASCEND)
def test_an_exported_program_has_the_samples_of_the_rule(rule, mode):
    module = ROIAlign(2, 2, 0.25, 2, mode, rule=rule)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((2, 3, 20, 30)).astype(np.float32))
    start = rng.uniform(0, 60, (40, 2))
    rois = torch.from_numpy(
        np.hstack((rng.integers(0, 2, (40, 1)), start, start + rng.uniform(-3, 40, (40, 2)))).astype(np.float32)
    )
    program = torch.export.export(module, (features, rois)).module()
    np.testing.assert_allclose(program(features, rois), module(features, rois), atol=2e-5)


# Which kernel a run most likely used, as ASCEND's and MindSpore's sources have it.
RUNS = [
    (("CPU",), "cpu"),
    (("GPU", "1.1"), None),
    (("gpu", "1.3"), "gpu"),
    (("910A", "1.8", "graph"), "ascend-static"),
    (("Ascend910", "1.8", "pynative"), "ascend-static"),
    (("910A", "2.0", "graph", "dynamic"), "ascend-dynamic"),
    (("910A", "1.5", "graph", "static", "float16"), None),
    (("910B", "1.9", "graph", "static", "float16"), "ascend-static"),
    (("910B", "2.1", "pynative"), "ascend-dynamic"),
    (("910B", "2.3", "pynative"), "ascend-dynamic"),
    (("910B", "2.3.1", "graph"), "ascend-static"),
    (("910B", "2.5", "graph"), "ascend-dynamic"),
    (("910A", "2.5", "graph"), "ascend-static"),
    (("310P", "2.2", "graph"), "ascend-dynamic"),
    (("910_93",), "ascend-dynamic"),
    (("950",), "ascend-950"),
]


@pytest.mark.parametrize(("run", "rule"), RUNS)
def test_the_rule_that_a_run_most_likely_obeyed(run, rule):
    likely = devices.likely_rule(*run)
    assert likely.rule == rule
    assert likely.sentence.endswith(".")
    assert rule is None or rule in params.MODES


@pytest.mark.parametrize(
    ("run", "message"), [(("920",), "chip must be one of"), (("910B", "new"), "mindspore must be")]
)
def test_other_chips_and_versions_are_refused(run, message):
    with pytest.raises(ValueError, match=message):
        devices.likely_rule(*run)
