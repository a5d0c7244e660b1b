"""``assert_parity``: what it accepts, what it refuses, and what it says."""

import inspect
import re

import numpy as np
import pytest
import torch
import torchvision
from helpers import run_python, without

import ms2torch_roi
from ms2torch_roi import assert_parity, reference, rules
from ms2torch_roi.parity import operators

HAS_MINDSPORE = "mindspore" in operators.versions()
RNG = np.random.default_rng(7)
FEATURES = RNG.standard_normal((2, 4, 12, 16)).astype(np.float32)
CORNERS = RNG.uniform(0, 120, (9, 2))
ROIS = np.concatenate((RNG.integers(0, 2, (9, 1)), CORNERS, CORNERS + RNG.uniform(0, 60, (9, 2))), 1).astype(np.float32)
ROIS[3, 1::2] = 0  # never written by MindSpore
MINDSPORE = {"pooled_height": 3, "pooled_width": 2, "spatial_scale": 0.125}
TORCHVISION = {"output_size": (3, 2), "spatial_scale": 0.125, "sampling_ratio": 2}
EXPECTED = reference.ms_roi_align(FEATURES, ROIS, **MINDSPORE)


def naive(features, rois):
    """The port that MindSpore's documentation suggests."""
    arrays = torch.from_numpy(features), torch.from_numpy(rois)
    return torchvision.ops.roi_align(*arrays, (3, 2), 0.125, 2, aligned=True)


def message_of(*arguments, **named):
    with pytest.raises(AssertionError) as caught:
        assert_parity(*arguments, **named)
    return str(caught.value)


def test_a_call_of_mindspore_and_its_port_agree():
    for mode in (0, 1):
        assert assert_parity(FEATURES, ROIS, **MINDSPORE, roi_end_mode=mode) is None
    assert_parity(FEATURES.astype(np.float16), ROIS, **MINDSPORE, sample_num=0)


@pytest.mark.needs_mindspore
def test_a_call_of_torchvision_and_its_port_agree():
    for aligned in (False, True):
        assert_parity(FEATURES, ROIS, **TORCHVISION, aligned=aligned)
    of_images = [ROIS[ROIS[:, 0] == image, 1:] for image in (0, 1)]
    assert_parity(FEATURES, of_images, output_size=3, spatial_scale=0.125)


def test_the_message_says_what_differs_and_why():
    lines = message_of(FEATURES, ROIS, actual=naive(FEATURES, ROIS), **MINDSPORE).splitlines()
    versions = ", ".join(f"{name} {version}" for name, version in operators.versions().items())
    assert f"torchvision {torchvision.__version__.split('+')[0]}" in versions
    original = "mindspore.ops.ROIAlign on the CPU" if HAS_MINDSPORE else "the NumPy reference, WITHOUT MindSpore"
    assert lines[:7] == [
        "mindspore.ops.ROIAlign differs",
        "arguments: pooled_height=3, pooled_width=2, spatial_scale=0.125, sample_num=2, roi_end_mode=1",
        "inputs:    features float32 (2, 4, 12, 16), rois float32 (9, 5)",
        f"expected:  {original}",
        "actual:    as given",
        f"versions:  {versions}",
        "",
    ]
    different = naive(FEATURES, ROIS).numpy() != EXPECTED
    different[3] = False
    distance = np.where(different, abs(EXPECTED - naive(FEATURES, ROIS).numpy()), 0)
    assert lines[7] == f"{different.sum()} of 192 values differ, by {distance.max():.6g} at most"
    assert re.fullmatch(r"rois row \d \(.*\), channel 0, bin \(\d, \d\): expected \S+, got \S+", lines[8])
    assert "aligned for roi_end_mode, as MindSpore's documentation suggests" in lines[9]
    worst = sorted(range(9), key=lambda row: -distance[row].max())[:3]
    assert lines[10] == f"{different.any((1, 2, 3)).sum()} of 9 rows differ, most of all:"
    for line, row in zip(lines[11:14], worst, strict=True):
        box = ", ".join(map(str, ROIS[row]))
        count = f"{different[row].sum()} of 24 values, by {distance[row].max():.6g} at most"
        assert line == f"  row {row} ({box}): {count}"
    assert lines[14:] == ["not compared: 1 rows never written by MindSpore (|x1| and |x2| < 0.001)", "tolerance: none"]


def test_a_mistake_in_the_port_is_found(monkeypatch):
    forward, last_row = ms2torch_roi.ROIAlign.forward, torch.tensor([0, 0, 0, 0, 1.0])
    wrong = lambda op, features, rois: forward(op, features, rois - last_row)  # noqa: E731
    monkeypatch.setattr(ms2torch_roi.ROIAlign, "forward", wrong)
    message = message_of(FEATURES, ROIS, **MINDSPORE)
    assert "actual:    ms2torch_roi.ROIAlign on the CPU" in message
    assert "not compared: 1 rows" in message


@pytest.mark.needs_mindspore
def test_a_mistake_in_the_port_back_is_found(monkeypatch):
    monkeypatch.setattr(rules, "TORCHVISION", rules.TORCHVISION[::-1])
    message = message_of(FEATURES, ROIS, **TORCHVISION)
    assert message.startswith("torchvision.ops.roi_align differs\narguments: output_size=(3, 2), ")
    assert "expected:  torchvision.ops.roi_align on the CPU\nactual:    ms2torch_roi.RoIAlign on the CPU\n" in message


def test_rows_that_are_not_defined_may_hold_anything():
    actual = EXPECTED.copy()
    actual[3] = np.nan
    assert_parity(FEATURES, ROIS, actual=actual, **MINDSPORE)
    assert_parity(FEATURES, ROIS, expected=actual, **MINDSPORE)
    assert np.isnan(actual[3]).all()  # and are not touched
    rois = ROIS.copy()
    rois[5, 2] = np.inf  # torchvision crashes on it
    actual = reference.tv_roi_align(FEATURES, rois, **TORCHVISION)
    actual[5] = 9
    assert_parity(FEATURES, rois, actual=actual, **TORCHVISION)


@pytest.mark.parametrize("given", ["actual", "expected", "nothing"])
def test_what_compares_no_row_is_refused(given):
    rois, output = np.zeros_like(ROIS), np.full_like(EXPECTED, 77)
    message = f"assert_parity: nothing can be compared: all {len(rois)} rows never written by MindSpore"
    with pytest.raises(ValueError, match=message):
        assert_parity(FEATURES, rois, **({} if given == "nothing" else {given: output}), **MINDSPORE)


@pytest.mark.needs_mindspore
def test_a_nan_index_that_crashes_mindspore_does_not_crash_this():
    code = (
        "import numpy as np, ms2torch_roi\n"
        "features, rois = np.ones((1, 1, 25, 39), 'f4'), np.array([[np.nan, 0, 0, 60, 60], [0, 1, 1, 60, 60]], 'f4')\n"
        "arguments = dict(pooled_height=7, pooled_width=7, spatial_scale=0.25)\n"
        "ms2torch_roi.assert_parity(features, rois, **arguments)\n"
        "output = ms2torch_roi.ROIAlign(**arguments)(features, rois)\n"
        "assert (output == 1).all()\n"
        "output[0] = 99\n"
        "ms2torch_roi.assert_parity(features, rois, actual=output, **arguments)\n"
        "from ms2torch_roi.parity import case, operators\n"
        "case = case.MindSporeCase(name='', category='', source='', features=features, rois=rois, **arguments)\n"
        "gradients = [of(case, output) for of in (operators.gradient, operators.original_gradient)]\n"
        "assert np.abs(gradients[0] - gradients[1]).max() < 1e-3\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_one_last_bit_is_a_difference_unless_a_tolerance_allows_it():
    actual = EXPECTED.copy()
    actual[0, 0, 0, 0] = np.nextafter(actual[0, 0, 0, 0], np.float32(np.inf))
    actual[1, 1, 1, 1] += 0.5
    call = {"actual": actual, **MINDSPORE}
    assert "2 of 192 values differ, by 0.5 at most" in message_of(FEATURES, ROIS, **call)
    message = message_of(FEATURES, ROIS, atol=1e-6, rtol=1e-7, **call)
    assert "1 of 192 values differ, by 0.5 at most" in message
    assert "1 of 9 rows differ" in message
    assert message.endswith("tolerance: atol=1e-06, rtol=1e-07, max_differing=0")
    message = message_of(FEATURES, ROIS, max_differing=1, **call)
    assert "2 of 192 values differ (1 may), by 0.5 at most" in message
    assert_parity(FEATURES, ROIS, max_differing=2, **call)
    assert_parity(FEATURES, ROIS, atol=0.6, **call)
    assert_parity(FEATURES, ROIS, atol=1e-6, max_differing=1, **call)


def test_expected_may_come_from_anywhere():
    assert_parity(FEATURES, ROIS, expected=EXPECTED, **MINDSPORE)
    message = message_of(FEATURES, ROIS, expected=EXPECTED + 1, **MINDSPORE)
    assert "expected:  as given\nactual:    ms2torch_roi.ROIAlign on the CPU\n" in message
    assert "192 of 192 values differ, by 1" in message
    message = message_of(FEATURES, ROIS, expected=EXPECTED, actual=EXPECTED[:, :, :, :1], **MINDSPORE)
    assert "expected float32 (9, 4, 3, 2), got float32 (9, 4, 3, 1)" in message
    message = message_of(FEATURES, ROIS, expected=EXPECTED, actual=EXPECTED[:4], **MINDSPORE)
    assert "expected float32 (9, 4, 3, 2), got float32 (4, 4, 3, 2)" in message
    message = message_of(FEATURES, ROIS, expected=EXPECTED, actual=EXPECTED.astype(np.float16), **MINDSPORE)
    assert "expected float32 (9, 4, 3, 2), got float16 (9, 4, 3, 2)" in message
    with pytest.raises(
        ValueError, match=re.escape("expected has shape (9, 4, 2, 3), but this call gives (9, 4, 3, 2)")
    ):
        assert_parity(FEATURES, ROIS, expected=EXPECTED.swapaxes(2, 3), **MINDSPORE)


class OnAnAccelerator(torch.Tensor):
    """A tensor that has to be moved to the CPU before NumPy can have it."""

    device = torch.device("cuda")

    def detach(self):
        return self

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


KINDS = {
    "torch": torch.from_numpy,
    "torch, part of a graph": lambda array: torch.from_numpy(array).requires_grad_() * 1,
    "torch, channels last": lambda array: torch.from_numpy(array).to(
        memory_format=torch.channels_last if array.ndim == 4 else torch.contiguous_format
    ),
    "NumPy, back to front": lambda array: np.ascontiguousarray(array[::-1])[::-1],
    "NumPy, of another byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "NumPy, read-only": _read_only,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.filterwarnings("error")
def test_arrays_of_any_kind_and_place(kind):
    features, rois, expected, wrong = map(kind, (FEATURES, ROIS, EXPECTED, EXPECTED + 1))
    assert_parity(features, rois, expected=expected, **MINDSPORE)
    assert_parity(features, rois, actual=expected, **MINDSPORE)
    assert "192 of 192 values differ" in message_of(features, rois, actual=wrong, **MINDSPORE)


def test_the_port_runs_where_the_features_are(monkeypatch):
    devices = []

    def port(case, device="cpu"):
        devices.append(device)
        return EXPECTED

    monkeypatch.setattr(operators, "port", port)
    features, rois = (torch.from_numpy(array).as_subclass(OnAnAccelerator) for array in (FEATURES, ROIS))
    assert_parity(features, rois, expected=EXPECTED, **MINDSPORE)
    assert_parity(FEATURES, rois, expected=EXPECTED, **MINDSPORE)
    assert devices == [str(features.device), "cpu"]
    assert "ms2torch_roi.ROIAlign on cuda" in message_of(features, rois, expected=EXPECTED + 1, **MINDSPORE)


def test_a_call_on_ascend_is_compared_by_its_rule():
    of_rule = reference.ms_roi_align(FEATURES, ROIS, **MINDSPORE, rule="ascend-dynamic")
    assert_parity(FEATURES, ROIS, rule="ascend-dynamic", **MINDSPORE)
    assert_parity(FEATURES, ROIS, expected=of_rule, rule="ascend-dynamic", **MINDSPORE)
    message = message_of(FEATURES, ROIS, actual=EXPECTED, rule="ascend-dynamic", **MINDSPORE)
    assert "the NumPy reference of rule='ascend-dynamic'" in message


@pytest.mark.needs_mindspore
def test_tensors_of_mindspore():
    tensor = operators.import_mindspore().Tensor
    features, rois, expected = map(tensor, (FEATURES, ROIS, EXPECTED))
    assert_parity(features, torch.from_numpy(ROIS), expected=expected, **MINDSPORE)
    assert_parity(FEATURES, rois, actual=expected, **MINDSPORE)
    assert "192 of 192 values differ" in message_of(features, rois, actual=tensor(EXPECTED + 1), **MINDSPORE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_gpu():
    features, rois = torch.from_numpy(FEATURES).cuda(), torch.from_numpy(ROIS).cuda()
    output = ms2torch_roi.ROIAlign(**MINDSPORE)(features, rois)
    assert_parity(features, rois, actual=output, atol=1e-5, **MINDSPORE)
    assert "192 of 192 values differ" in message_of(features, rois, actual=output + 1, **MINDSPORE)


@pytest.mark.needs_mindspore
def test_the_mode_of_mindspore_is_left_alone():
    ms = operators.import_mindspore()
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        assert_parity(FEATURES, ROIS, **MINDSPORE)
        assert_parity(FEATURES, ROIS, **TORCHVISION)
        assert ms.get_context("mode") == ms.GRAPH_MODE
        with pytest.raises(RuntimeError, match="image index"):
            assert_parity(FEATURES, ROIS + 5, **TORCHVISION)
        assert ms.get_context("mode") == ms.GRAPH_MODE
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_what_may_be_left_out_is_as_in_the_frameworks():
    arguments = message_of(FEATURES, ROIS, actual=EXPECTED + 1, **MINDSPORE).splitlines()[1]
    assert arguments.endswith("spatial_scale=0.125, sample_num=2, roi_end_mode=1")
    arguments = message_of(FEATURES, ROIS, actual=EXPECTED + 1, output_size=(3, 2)).splitlines()[1]
    defaults = inspect.signature(torchvision.ops.roi_align).parameters
    ours = {name: parameter.default for name, parameter in [*defaults.items()][3:]}
    assert arguments == "arguments: output_size=(3, 2), " + ", ".join(f"{name}={value}" for name, value in ours.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give the arguments of one operator: mindspore.ops.ROIAlign takes pooled_height, pooled_width, "),
        ({"spatial_scale": 0.5}, "give the arguments of one operator: "),
        (
            {**MINDSPORE, "aligned": True},
            "the arguments are mixed, pooled_height, pooled_width of mindspore.ops.ROIAlign and aligned of"
            " torchvision.ops.roi_align; give those of one operator",
        ),
        (
            {**TORCHVISION, "sample_ratio": 2},
            "there is no argument sample_ratio: mindspore.ops.ROIAlign takes pooled_height, pooled_width,"
            " spatial_scale, sample_num, roi_end_mode, rule; torchvision.ops.roi_align takes output_size,"
            " spatial_scale, sampling_ratio, aligned",
        ),
        ({"pooled_height": 3}, "mindspore.ops.ROIAlign needs pooled_width and spatial_scale too"),
        ({"aligned": True}, "torchvision.ops.roi_align needs output_size too"),
    ],
)
def test_arguments_of_no_operator_are_refused(arguments, message):
    with pytest.raises(TypeError, match=f"^{re.escape(f'assert_parity: {message}')}"):
        assert_parity(FEATURES, ROIS, **arguments)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([[1.0]], "list"),
        ("features.npy", "str"),
        (FEATURES.astype(np.float64), "ndarray of float64"),
        (torch.ones(2, 4, 12, 16, dtype=torch.bfloat16), "Tensor of torch.bfloat16"),
        (FEATURES.astype(int), "ndarray of int64"),
        (np.ma.array(FEATURES), "MaskedArray of float32"),
    ],
)
@pytest.mark.parametrize("name", ["features", "rois", "expected", "actual"])
def test_what_is_no_array_of_the_operators_is_refused(name, value, found):
    message = f"^assert_parity: {name} must be a tensor of torch or MindSpore or a NumPy array, of float16 or float32"
    with pytest.raises(TypeError, match=f"{message}, got {found}$"):
        assert_parity(**{"features": FEATURES, "rois": ROIS, name: value}, **MINDSPORE)


REFUSED = {
    "a pooled height of 0": (FEATURES, ROIS, {**MINDSPORE, "pooled_height": 0}),
    "a scale that is an int": (FEATURES, ROIS, {**MINDSPORE, "spatial_scale": 1}),
    "a mode that does not exist": (FEATURES, ROIS, {**MINDSPORE, "roi_end_mode": 2}),
    "features of 3 dimensions": (FEATURES[0], ROIS, MINDSPORE),
    "rois of 4 columns": (FEATURES, ROIS[:, 1:], MINDSPORE),
    "an index that is out of range": (FEATURES, ROIS + 2, MINDSPORE),
}
REFUSED_BACK = {
    "a size of 0": (FEATURES, ROIS, {**TORCHVISION, "output_size": (0, 1)}),
    "input of 3 dimensions": (FEATURES[0], ROIS, TORCHVISION),
    "boxes of 4 columns": (FEATURES, ROIS[:, 1:], TORCHVISION),
    "a list of boxes of 5 columns": (FEATURES, [ROIS], TORCHVISION),
    "an index that is out of range": (FEATURES, ROIS + 2, TORCHVISION),
}


def refusal(function, *arguments, **named):
    with pytest.raises(Exception) as caught:
        function(*arguments, **named)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(("features", "rois", "arguments"), REFUSED.values(), ids=REFUSED)
def test_what_the_port_refuses_is_refused_in_its_words(features, rois, arguments):
    def port():
        return ms2torch_roi.ROIAlign(**arguments)(torch.from_numpy(features), torch.from_numpy(rois))

    kind, message = refusal(assert_parity, features, rois, **arguments)
    assert (kind, message) == refusal(port)
    # And what no port is there to refuse is no difference either.
    assert refusal(assert_parity, features, rois, actual=EXPECTED, **arguments)[0] is kind
    assert kind is not AssertionError


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(("input", "rois", "arguments"), REFUSED_BACK.values(), ids=REFUSED_BACK)
def test_what_the_port_back_refuses_is_refused_in_its_words(input, rois, arguments):
    tensor = operators.import_mindspore().Tensor
    of_port = [tensor(part) for part in rois] if isinstance(rois, list) else tensor(rois)
    kind, message = refusal(assert_parity, input, rois, **arguments)
    assert (kind, message) == refusal(ms2torch_roi.roi_align, tensor(input), of_port, **arguments)
    assert refusal(assert_parity, input, rois, actual=EXPECTED, **arguments)[0] is kind


@pytest.mark.needs_mindspore
def test_two_dtypes_which_torchvision_alone_refuses_are_a_difference():
    with pytest.raises(AssertionError, match=r"torchvision raised RuntimeError: .* should have the same type"):
        assert_parity(FEATURES, ROIS.astype(np.float16), **TORCHVISION)


CALL = """
import numpy as np
from ms2torch_roi import assert_parity, reference
features, rois = np.ones((1, 1, 8, 8), np.float32), np.array([[0, 1, 1, 5, 4]], np.float32)
arguments = {"pooled_height": 2, "pooled_width": 2, "spatial_scale": 1.0}
output = reference.ms_roi_align(features, rois, **arguments)
"""


def test_without_mindspore_the_reference_is_expected_and_the_message_says_so():
    call = "assert_parity(features, rois, **arguments)\nassert_parity(features, rois, actual=output + 1, **arguments)"
    result = run_python(without("mindspore") + CALL + call)
    assert "expected:  the NumPy reference, WITHOUT MindSpore" in result.stderr
    assert "4 of 4 values differ, by 1 at most" in result.stderr
    (versions,) = (line for line in result.stderr.splitlines() if line.startswith("versions:"))
    assert "mindspore" not in versions


def test_without_torch_the_port_cannot_run_but_its_result_can_be_given():
    calls = "assert_parity(features, rois, actual=output, **arguments)\nprint('the same')\n"
    result = run_python(without("torch") + without("mindspore") + CALL + calls + calls.replace("actual=output, ", ""))
    assert result.stdout == "the same\n"
    assert "ImportError: ms2torch_roi.ROIAlign runs on torch and torchvision, but torch is not installed." in (
        result.stderr
    )
