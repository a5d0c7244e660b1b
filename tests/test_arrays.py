"""Both ports on arrays of every kind: NumPy's, torch's and MindSpore's, in any mix."""

import itertools
import warnings

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits, run_python, without

import ms2torch_roi
from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import cases, operators

FEATURES = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
# Of many cells, of less than one, and padding.
ROIS = np.array([[1, 2, 3, 17, 14], [0, 6, 6, 7.2, 6.8], [0, 0, 0, 0, 0]], np.float32)
BOXES_OF_IMAGES = [ROIS[1:, 1:], ROIS[:1, 1:]]


def mindspore_tensor(array):
    return operators.import_mindspore().Tensor(array)


KINDS = {
    "torch": torch.from_numpy,
    "NumPy": lambda array: array,
    "MindSpore": mindspore_tensor,
}
TO_NUMPY = {
    "torch": lambda tensor: tensor.numpy(),
    "NumPy": lambda array: array,
    "MindSpore": lambda tensor: tensor.asnumpy(),
}


def mixes(*, without_all):
    """Return parameters for every pair of kinds but one, marked if MindSpore takes part."""
    return [
        pytest.param(*pair, marks=[pytest.mark.needs_mindspore] if "MindSpore" in pair else [])
        for pair in itertools.product(KINDS, repeat=2)
        if pair != (without_all, without_all)
    ]


def of_kind(kind, array):
    types = {"torch": torch.Tensor, "NumPy": np.ndarray}
    return type(array) is (types[kind] if kind in types else type(mindspore_tensor(ROIS)))


# On torch.


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sample_num", [2, 0])
@pytest.mark.parametrize(("kind", "rois_kind"), mixes(without_all="torch"))
def test_roi_align_on_torch_takes_any_kind_and_returns_that_of_the_features(kind, rois_kind, sample_num, dtype):
    features, rois = FEATURES.astype(dtype), ROIS.astype(dtype)
    op = ROIAlign(1, 2, 0.5, sample_num)
    expected = op(torch.from_numpy(features), torch.from_numpy(rois)).numpy()
    output = op(KINDS[kind](features), KINDS[rois_kind](rois))
    assert of_kind(kind, output)
    assert_same_bits(TO_NUMPY[kind](output), expected)


def test_random_cases_in_numpy_have_the_bits_of_torch():
    for number in range(40):
        case = cases.random_case(6, number)
        output = ROIAlign(**case.arguments)(case.features, case.rois)
        assert_same_bits(output, operators.port(case))


def awkward(array, how):
    """Return the same values in memory that torch and MindSpore do not take as it is."""
    if how == "backwards":
        return array[..., ::-1].copy()[..., ::-1]
    if how == "of another byte order":
        return array.astype(array.dtype.newbyteorder())
    if how == "a field of a record":
        record = np.zeros(array.shape, [("odd", np.int8), ("value", array.dtype)])
        record["value"] = array
        return record["value"]
    if how == "read only":
        array = array.copy()
        array.flags.writeable = False
        return array
    return np.asfortranarray(array)


AWKWARD = ["backwards", "of another byte order", "a field of a record", "read only", "of another layout"]


@pytest.mark.parametrize("how", AWKWARD)
def test_numpy_arrays_as_they_come(how):
    op = ROIAlign(1, 2, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = op(awkward(FEATURES, how), awkward(ROIS, how))
    assert_same_bits(output, op(FEATURES, ROIS))


def test_numpy_arrays_share_their_memory(monkeypatch):
    seen = []
    monkeypatch.setattr("ms2torch_roi.torch._pool", lambda features, *_: seen.append(features) or features)
    output = ROIAlign(1, 2, 0.5)(FEATURES, ROIS)
    assert seen[0].data_ptr() == FEATURES.ctypes.data
    assert np.shares_memory(output, FEATURES)


@pytest.mark.needs_mindspore
def test_mindspore_tensors_share_their_memory(monkeypatch):
    seen = []
    monkeypatch.setattr("ms2torch_roi.torch._pool", lambda features, *_: seen.append(features) or features)
    features = mindspore_tensor(FEATURES)
    output = ROIAlign(1, 2, 0.5)(features, ROIS)
    assert seen[0].data_ptr() == features.asnumpy().ctypes.data == output.asnumpy().ctypes.data


def test_errors_are_those_of_tensors():
    for features, rois, error, match in (
        (FEATURES, ROIS[:, 1:], ValueError, r"rois must have shape \(K, 5\)"),
        (FEATURES, ROIS.astype(int), TypeError, "rois must be float16, .* got torch.int64"),
        (
            FEATURES,
            ROIS.tolist(),
            TypeError,
            "rois must be a tensor of torch or MindSpore or a NumPy array, got builtins.list",
        ),
        (FEATURES.astype(object), ROIS, TypeError, "object"),
        (np.ma.masked_array(FEATURES), ROIS, TypeError, "got numpy.ma.*: a mask would be lost"),
        (FEATURES, ROIS + 5, RuntimeError, "rois row 0: image index 6.0 is out of range"),
    ):
        with pytest.raises(error, match=match):
            ROIAlign(1, 2, 0.5)(features, rois)


def bfloat16_of_ml_dtypes(array):
    return array.astype(pytest.importorskip("ml_dtypes").bfloat16)


def bfloat16_of_mindspore(array):
    return mindspore_tensor(array).astype(operators.import_mindspore().bfloat16)


BFLOAT16_KINDS = {
    "torch": lambda array: torch.from_numpy(array).bfloat16(),
    "NumPy": bfloat16_of_ml_dtypes,
    "MindSpore": bfloat16_of_mindspore,
}


def bits_of_bfloat16(array):
    """Return the kind and the bits of an array of bfloat16."""
    if isinstance(array, torch.Tensor):
        assert array.dtype == torch.bfloat16
        return torch.Tensor, array.view(torch.int16).numpy()
    kind = type(array)
    if kind is not np.ndarray:
        array = array.asnumpy()
    assert array.dtype.name == "bfloat16"
    return kind, array.view(np.int16)


@pytest.mark.parametrize("sample_num", [2, 0])
@pytest.mark.parametrize(("kind", "rois_kind"), mixes(without_all="torch"))
def test_bfloat16_of_any_kind_is_that_of_torch(kind, rois_kind, sample_num):
    op = ROIAlign(1, 2, 0.5, sample_num)
    of_torch = torch.from_numpy(FEATURES).bfloat16(), torch.from_numpy(ROIS).bfloat16()
    features, rois = BFLOAT16_KINDS[kind](FEATURES), BFLOAT16_KINDS[rois_kind](ROIS)
    got, bits = bits_of_bfloat16(op(features, rois))
    assert got is type(features)
    assert_same_bits(bits, op(*of_torch).view(torch.int16).numpy())
    got, bits = bits_of_bfloat16(op(features, KINDS[rois_kind](ROIS)))  # and float32 rois
    assert_same_bits(bits, op(of_torch[0], torch.from_numpy(ROIS)).view(torch.int16).numpy())
    output = op(KINDS[kind](FEATURES), rois)  # and float32 features
    assert of_kind(kind, output)
    assert_same_bits(TO_NUMPY[kind](output), op(torch.from_numpy(FEATURES), of_torch[1]).numpy())


def test_bfloat16_of_torch_features_is_returned_and_has_its_gradient():
    features = torch.from_numpy(FEATURES.copy()).bfloat16().requires_grad_()
    output = ROIAlign(1, 2, 0.5)(features, bfloat16_of_ml_dtypes(ROIS))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert features.grad.any()


def test_bfloat16_arrays_share_their_memory_and_need_not_be_contiguous(monkeypatch):
    features = bfloat16_of_ml_dtypes(FEATURES)
    op = ROIAlign(1, 2, 0.5)
    expected = bits_of_bfloat16(op(features, ROIS))[1]
    for how in ("backwards", "a field of a record", "read only", "of another layout"):
        assert_same_bits(bits_of_bfloat16(op(awkward(features, how), ROIS))[1], expected)
    seen = []
    monkeypatch.setattr("ms2torch_roi.torch._pool", lambda features, *_: seen.append(features) or features)
    assert np.shares_memory(op(features, ROIS), features)
    assert seen[0].data_ptr() == features.ctypes.data


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int4"])
def test_other_dtypes_of_ml_dtypes_are_refused(dtype):
    wrong = getattr(pytest.importorskip("ml_dtypes"), dtype)
    for features, rois, name in ((FEATURES.astype(wrong), ROIS, "features"), (FEATURES, ROIS.astype(wrong), "rois")):
        with pytest.raises(TypeError, match=f"{name} must be float16, float32, float64 or bfloat16, got {dtype}"):
            ROIAlign(1, 2, 0.5)(features, rois)


def test_torch_features_have_their_gradient_whatever_the_rois_are():
    features = torch.from_numpy(FEATURES.copy()).requires_grad_()
    ROIAlign(1, 2, 0.5)(features, ROIS).sum().backward()
    again = torch.from_numpy(FEATURES.copy()).requires_grad_()
    ROIAlign(1, 2, 0.5)(again, torch.from_numpy(ROIS)).sum().backward()
    assert_same_bits(features.grad.numpy(), again.grad.numpy())


def test_numpy_features_and_rois_that_require_a_gradient():
    op = ROIAlign(1, 2, 0.5)
    assert_same_bits(op(FEATURES, torch.from_numpy(ROIS.copy()).requires_grad_()), op(FEATURES, ROIS))


@pytest.mark.needs_mindspore
def test_a_gradient_for_mindspore_features_is_refused_rather_than_0():
    ms = operators.import_mindspore()
    gradient = ms.grad(lambda features: ROIAlign(1, 2, 0.5)(features, ROIS).sum())
    with pytest.raises(RuntimeError, match="ROIAlign: torch cannot give the gradient of a MindSpore tensor"):
        gradient(mindspore_tensor(FEATURES)).asnumpy()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("graph_mode", [False, True])
def test_mindspore_tensors_inside_a_graph_are_refused(graph_mode):
    ms = operators.import_mindspore()
    op, rois = ROIAlign(1, 2, 0.5), mindspore_tensor(ROIS)

    def loss_of(features):
        return op(features, rois).sum()

    ms.set_context(mode=ms.GRAPH_MODE if graph_mode else ms.PYNATIVE_MODE)
    try:
        gradient = ms.grad(loss_of if graph_mode else ms.jit(loss_of))
        with pytest.raises(RuntimeError, match="ROIAlign: inside a MindSpore graph its gradient would be 0"):
            gradient(mindspore_tensor(FEATURES)).asnumpy()
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_warnings_of_others_are_left_as_they_are():
    code = (
        "import warnings, numpy\nfrom ms2torch_roi import ROIAlign\n"
        "features, rois = numpy.ones((1, 1, 9, 9), 'f4'), numpy.array([[0, 1, 1, 5, 4]], 'f4')\n"
        "for _ in range(3):\n    ROIAlign(2, 2, 0.5)(features, rois)\n    warnings.warn('once')\n"
    )
    assert run_python(code).stderr.count("UserWarning: once") == 1


# On MindSpore.


def in_torchvision(boxes, *arguments, features=FEATURES):
    boxes = [torch.from_numpy(part) for part in boxes] if isinstance(boxes, list) else torch.from_numpy(boxes)
    return torchvision.ops.roi_align(torch.from_numpy(features), boxes, *arguments).numpy()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("sampling_ratio", [2, -1])
@pytest.mark.parametrize(("kind", "boxes_kind"), mixes(without_all="MindSpore"))
def test_roi_align_on_mindspore_takes_any_kind_and_returns_that_of_the_input(kind, boxes_kind, sampling_ratio):
    operators.import_mindspore()
    arguments = ((1, 2), 0.5, sampling_ratio, True)
    for boxes in (ROIS, BOXES_OF_IMAGES):
        given = [KINDS[boxes_kind](part) for part in boxes] if isinstance(boxes, list) else KINDS[boxes_kind](boxes)
        for function in (ms2torch_roi.RoIAlign(*arguments), lambda *two: ms2torch_roi.roi_align(*two, *arguments)):
            output = function(KINDS[kind](FEATURES), given)
            assert of_kind(kind, output)
            assert_same_bits(TO_NUMPY[kind](output), in_torchvision(boxes, *arguments))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("how", AWKWARD)
def test_numpy_arrays_as_they_come_on_mindspore(how):
    operators.import_mindspore()
    output = ms2torch_roi.roi_align(awkward(FEATURES, how), awkward(ROIS, how), (1, 2), 0.5, 2)
    assert_same_bits(output, in_torchvision(ROIS, (1, 2), 0.5, 2))


@pytest.mark.needs_mindspore
def test_a_gradient_for_torch_features_is_refused_rather_than_lost():
    operators.import_mindspore()
    features = torch.from_numpy(FEATURES.copy()).requires_grad_()
    with pytest.raises(
        RuntimeError, match=r"roi_align: MindSpore cannot give the gradient of a torch tensor; detach\(\)"
    ):
        ms2torch_roi.roi_align(features, ROIS, 2)
    with torch.no_grad():
        assert_same_bits(ms2torch_roi.roi_align(features, ROIS, 2).numpy(), in_torchvision(ROIS, 2))
    boxes = torch.from_numpy(ROIS.copy()).requires_grad_()
    assert_same_bits(ms2torch_roi.roi_align(FEATURES, boxes, 2), in_torchvision(ROIS, 2))


@pytest.mark.needs_mindspore
def test_torch_tensors_elsewhere_are_refused_on_mindspore():
    operators.import_mindspore()
    with pytest.raises(
        RuntimeError, match="roi_align: a torch tensor is on meta, but MindSpore takes them from the CPU"
    ):
        ms2torch_roi.roi_align(FEATURES, torch.from_numpy(ROIS).to("meta"), 2)


@pytest.mark.needs_mindspore
def test_arrays_of_no_kind_are_refused_on_mindspore():
    operators.import_mindspore()
    with pytest.raises(TypeError, match="input must be MindSpore's tensor, or in PyNative mode torch's or NumPy's"):
        ms2torch_roi.roi_align(FEATURES.tolist(), ROIS, 2)
    with pytest.raises(TypeError, match="takes float16 and float32, got input Float64"):
        ms2torch_roi.roi_align(FEATURES.astype(np.float64), ROIS.astype(np.float64), 2)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_refused_on_mindspore(kind):
    operators.import_mindspore()
    wrong = BFLOAT16_KINDS[kind]
    for features, boxes in (
        (wrong(FEATURES), wrong(ROIS)),
        (FEATURES, wrong(ROIS)),
        (wrong(FEATURES), ROIS),
        (FEATURES, [wrong(part) for part in BOXES_OF_IMAGES]),
    ):
        with pytest.raises(
            TypeError, match=r"roi_align: MindSpore's operator takes float16 and float32, got .*[Ff]loat16"
        ):
            ms2torch_roi.roi_align(features, boxes, 2)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_refused_on_mindspore(dtype):
    operators.import_mindspore()
    wrong = getattr(pytest.importorskip("ml_dtypes"), dtype)
    for features, boxes in (
        (FEATURES.astype(wrong), ROIS),
        (FEATURES, ROIS.astype(wrong)),
        (torch.from_numpy(FEATURES).to(getattr(torch, dtype)), ROIS),
    ):
        with pytest.raises(
            TypeError, match=rf"roi_align: MindSpore's operator takes float16 and float32, got .*{dtype}"
        ):
            ms2torch_roi.roi_align(features, boxes, 2)


# Imports.


def test_numpy_arrays_on_torch_import_no_mindspore():
    code = (
        "import sys, numpy\nfrom ms2torch_roi import ROIAlign\n"
        "features, rois = numpy.ones((1, 1, 9, 9), 'f4'), numpy.array([[0, 1, 1, 5, 4]], 'f4')\n"
        "print(type(ROIAlign(2, 2, 0.5)(features, rois)).__name__, 'mindspore' in sys.modules)"
    )
    assert run_python(code).stdout.strip() == "ndarray False"


@pytest.mark.needs_mindspore
def test_numpy_arrays_on_mindspore_import_no_torch():
    code = (
        "import sys, numpy\nfrom ms2torch_roi import roi_align\n"
        "features, boxes = numpy.ones((1, 1, 9, 9), 'f4'), numpy.array([[0, 1, 1, 5, 4]], 'f4')\n"
        "print(type(roi_align(features, boxes, 2)).__name__, 'torch' in sys.modules)"
    )
    assert run_python(without("torch") + code).stdout.strip() == "ndarray False"
