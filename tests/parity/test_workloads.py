"""Calls as large as models make them: the bits of the original, forward and backward, in both directions."""

import numpy as np
import oracle
import pytest
import torch
from helpers import assert_same_bits

from ms2torch_roi import ROIAlign, engine
from ms2torch_roi.parity import campaign, cases, operators, verdicts

# Its samples enter the image along the bins, so that the first of them are outside.
ENTERING = (0, -400.128662109375, 896.8827514648438, 61.48917770385742, 348.4419860839844)
STRIDE = 32


def rows_of_no_call(rng, image):
    """490 boxes below one cell so near to 0 that no call of torchvision has them, and the one that enters."""
    start = rng.uniform((0, 0), (1e-5, 28), (490, 2))
    end = start + rng.uniform(0, 0.9, (490, 2))
    boxes = np.concatenate((start * STRIDE, end * STRIDE - 1), 1)
    boxes = np.concatenate((boxes, [ENTERING[1:]]))
    return np.concatenate((np.full((491, 1), image), boxes), 1).astype(np.float32)


def entering_row_of_mindspore():
    rng = np.random.default_rng(0)
    return cases.MindSporeCase(
        name="a box that enters the image, the last of 491", category="", source="",
        features=rng.standard_normal((1, 115, 28, 13)).astype(np.float32), rois=rows_of_no_call(rng, 0),
        pooled_height=14, pooled_width=4, spatial_scale=1 / STRIDE, sample_num=3, roi_end_mode=1,
    )  # fmt: skip


def entering_row_of_torchvision():
    rng = np.random.default_rng(0)
    rois = rows_of_no_call(rng, 1) + np.array((0, 0, 0, 1, 1), np.float32)
    features = rng.standard_normal((2, 115, 28, 13)).astype(np.float32)
    features[0, 0, 0, 0] = np.nan  # what samples outside add then, too
    return cases.TorchvisionCase(
        name="a box that enters the image, the last of 491", category="", source="",
        features=features, rois=rois, output_size=(14, 4), spatial_scale=1 / STRIDE, sampling_ratio=3, aligned=True,
    )  # fmt: skip


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("make", [entering_row_of_mindspore, entering_row_of_torchvision])
@pytest.mark.parametrize("port", [operators.port, operators.reference])
def test_a_box_that_enters_the_image_among_490_others(make, port):
    case = make()
    expected = operators.original(case)
    assert expected[490].any()
    assert_same_bits(port(case), expected)


def assert_bits_of_the_oracle(case):
    verdict = verdicts.judge(case, oracle.output(case), operators.port(case))
    assert verdict.passed, verdict


@pytest.mark.parametrize("number", range(20))
def test_the_port_to_torch_has_the_bits_of_the_oracle_forward_and_backward(number):
    case = cases.workload_case(5, number)
    assert_bits_of_the_oracle(case)
    given = operators.some_output_gradient(case)
    for mode in {1, case.roi_end_mode}:
        actual = operators.gradient(case, given, backward_roi_end_mode=mode)
        assert_same_bits(verdicts.flushed(actual), verdicts.flushed(oracle.gradient(case, given, mode)))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("number", range(20))
def test_the_port_to_mindspore_has_the_bits_of_the_oracle_forward_and_backward(number):
    case = cases.torchvision_workload_case(5, number)
    assert_bits_of_the_oracle(case)
    given = operators.some_output_gradient(case)
    assert_same_bits(operators.gradient(case, given), oracle.gradient(case, given))


@pytest.mark.parametrize("make", [cases.workload_case, cases.torchvision_workload_case])
def test_workloads_are_as_large_as_models_make_them_and_of_every_kind(make):
    every = [make(0, number) for number in range(60)]
    assert all(50 <= len(case.rois) <= 1000 and 8 <= case.features.shape[1] <= 256 for case in every)
    assert {case.pooled for case in every} >= {(7, 7), (14, 14)}
    assert max(case.features.shape[1] for case in every) == 256
    assert max(np.prod(case.output_shape) for case in every) > 2**21
    assert {case.features.dtype.name for case in every} == {"float16", "float32"}
    assert {case.samples > 0 for case in every} == {case.features.flags.c_contiguous for case in every} == {True, False}
    assert {case.threads for case in every} == ({1, 2, 3} if make is cases.workload_case else {None})
    assert sum(case.undefined.any() and not case.undefined.all() for case in every) > 20
    again = make(0, 59)
    np.testing.assert_array_equal(again.rois, every[59].rois)
    np.testing.assert_array_equal(again.features, every[59].features)


def test_a_case_is_run_on_the_threads_that_it_asks_for(monkeypatch):
    found, forward, before = [], ROIAlign.forward, torch.get_num_threads()
    monkeypatch.setattr(ROIAlign, "forward", lambda *of: found.append(torch.get_num_threads()) or forward(*of))
    case = next(case for case in (cases.workload_case(0, number) for number in range(99)) if case.threads == 3)
    operators.port(case)
    operators.gradient(case, operators.some_output_gradient(case))
    assert found == [3, 3]
    assert torch.get_num_threads() == before


def verdicts_on_workloads(check):
    return [verdict for number in range(len(check))[-2 * check.workloads :] for verdict in check.verdicts(number)]


@pytest.mark.needs_mindspore
def test_the_check_compares_both_directions_forward_and_backward():
    found = verdicts_on_workloads(campaign.Check(random_cases=0, workloads=2))
    assert [verdict.direction for verdict in found] == [*["to-torch"] * 2, *["to-mindspore"] * 2] * 2
    assert [verdict.category == campaign.GRADIENT for verdict in found] == [False, True] * 4
    assert all(verdict.passed and verdict.values > 1000 for verdict in found)


@pytest.mark.needs_mindspore
def test_a_wrong_gradient_is_found_made_small_and_reproduced(monkeypatch, capsys):
    gradient = engine.gradient

    def without_a_channel(of_output, samples, of_features, threads):
        gradient(of_output, samples, of_features, threads)
        if len(of_output) >= 3:
            of_features[:, 0] = 0

    monkeypatch.setattr(engine, "gradient", without_a_channel)
    check = campaign.Check(random_cases=0, workloads=1)
    forward, backward = verdicts_on_workloads(check)[:2]
    assert forward.passed
    assert not backward.passed
    small = check.shrunk(backward)
    assert not small.passed
    assert small.category == campaign.GRADIENT
    assert len(small.reproduction) < 3000
    exec(small.reproduction, {})
    assert f"differing={small.differing}," in capsys.readouterr().out
