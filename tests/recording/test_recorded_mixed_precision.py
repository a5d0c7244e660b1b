"""A call in MindSpore's mixed precision is recorded as it is computed, so that the port replays to its bits."""

import numpy as np
import pytest
from helpers import MIXED_PRECISION, assert_same_bits
from recordings import MS_FEATURES, MS_ROIS, read

from ms2torch_roi import cli
from ms2torch_roi.parity.recording import record

pytestmark = pytest.mark.needs_mindspore

FEATURES = np.random.default_rng(1).standard_normal((2, 3, 16, 20)).astype(np.float32)
ROIS = np.array([[0, 1.1, 2.2, 30.3, 28.4], [1, 0.5, 0.6, 79.7, 63.8], [1, 40.5, 3.25, 41.9, 60]], np.float32)


@pytest.mark.parametrize("level", MIXED_PRECISION)
def test_a_recorded_call_replays_to_the_same_bits(tmp_path, ms, cells, level, capsys):
    operator = ms.ops.ROIAlign(3, 2, 0.25)
    ms.set_seed(0)
    model = cells.in_mixed_precision(cells.Backbone(cells.Calls(operator)), level)

    def loss(images):
        return model(images, ms.Tensor(ROIS)).astype(ms.float32).sum()

    with record(tmp_path / "calls", gradients=True) as recording:
        ms.grad(loss)(ms.Tensor(FEATURES))
    (call,) = read(recording)
    # Outside of mixed precision, and not recorded, the operator gives it again, and so do the ports.
    output = operator(ms.Tensor(call.case.features), ms.Tensor(call.case.rois)).asnumpy()
    assert_same_bits(call.output, output)
    assert call.features_gradient.dtype == call.output.dtype
    assert cli.main(["replay", str(tmp_path / "calls")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("IDENTICAL: 2 cases")


def test_the_way_back_makes_no_call_to_record(tmp_path, ms, ours, cells):
    model = cells.in_mixed_precision(cells.Backbone(cells.Calls(ours.RoIAlign((3, 2), 0.25, 2))), "O2")
    with pytest.warns(UserWarning, match="nothing was recorded"), record(tmp_path / "calls") as recording:
        model(ms.Tensor(FEATURES), ms.Tensor(ROIS))
    assert recording.calls == 0


@pytest.mark.parametrize("level", MIXED_PRECISION)
@pytest.mark.parametrize("gradients", [False, True])
def test_recording_changes_no_bit(tmp_path, ms, cells, level, gradients):
    ms.set_seed(0)
    model = cells.in_mixed_precision(cells.Backbone(cells.Calls(ms.ops.ROIAlign(4, 4, 0.25))), level)
    for _, parameter in model.parameters_and_names():  # whole numbers: sums are the same in any order
        parameter.set_data(ms.ops.ones_like(parameter))

    def run():
        def loss(images, rois):
            output = model(images, rois)
            return output.astype(ms.float32).sum(), output

        differentiate = ms.value_and_grad(loss, (0, 1), has_aux=True)
        (_, output), of_inputs = differentiate(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
        return [tensor.asnumpy() for tensor in (output, *of_inputs)]

    expected = run()
    with record(tmp_path / "calls", gradients=gradients) as recording:
        actual = run()
    for left, right in zip(actual, expected, strict=True):
        assert_same_bits(left, right)
    assert recording.calls == 1


def test_bfloat16_by_to_float_is_refused_by_name(tmp_path, ms, cells):
    model = cells.Calls(ms.ops.ROIAlign(4, 4, 0.25)).to_float(ms.bfloat16)
    with (
        record(tmp_path / "calls") as recording,
        pytest.warns(UserWarning, match="not recorded: a tensor is BFloat16"),
        pytest.raises(TypeError),
    ):
        model(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
    assert (recording.calls, read(recording)) == (1, [])
