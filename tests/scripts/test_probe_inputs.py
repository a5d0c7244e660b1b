"""The calls of the probe tell apart what they are for, by far, and without rounding."""

import functools
import itertools
from dataclasses import replace

import numpy as np
import probes
import pytest

from ms2torch_roi import rules
from ms2torch_roi.parity import identification
from ms2torch_roi.parity.recording.calls import Call
from ms2torch_roi.parity.rules import in_dtype
from ms2torch_roi.parity.scripts import inputs

DTYPES = ["float16", "float32"]
HYPOTHESES = {hypothesis.name: hypothesis for hypothesis in identification.hypotheses()}


def cases(dtype):
    for number, (arguments, rois) in enumerate(inputs.CALLS):
        yield replace(probes.case_of(arguments, np.array(rois), dtype), name=f"{number}")


def recorded(hypothesis, dtype, noise):
    """Yield the calls as a device would give them, off by a share of what one may be off, as far as it is known."""
    rng = np.random.default_rng(0)
    for case in cases(dtype):
        computed = probes.output(hypothesis, case)
        if computed.is_said.any():
            largest = noise * identification.ALLOWED[dtype] * np.abs(case.features).max()
            output = computed.values + rng.uniform(-largest, largest, case.output_shape)
            said = replace(case, rois=case.rois[computed.is_said])
            yield Call(case=said, output=output[computed.is_said].astype(dtype), device="Ascend")


@pytest.mark.parametrize("noise", [0.0, 0.8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HYPOTHESES)
def test_a_device_of_each_hypothesis_refutes_every_other_by_three_calls(name, dtype, noise):
    hypothesis = HYPOTHESES[name]
    if hypothesis.only not in (None, dtype):
        pytest.skip("it is of another dtype")
    findings = identification.identify(recorded(hypothesis, dtype, noise)).outputs
    for finding in findings:
        if finding.hypothesis == hypothesis:
            assert not finding.refuted
            assert len(finding.explained) >= 6
        else:
            assert len(finding.refuted) >= probes.CALLS_OF_A_PAIR, finding.hypothesis.name
            assert len([one for one in finding.refuted.values() if one.difference > probes.MARGIN / 2]) >= 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", ["cpu", "ascend-static", "ascend-dynamic"])
def test_the_gradient_of_each_rule_refutes_every_other_by_three_calls(device, dtype):
    rule = in_dtype(rules.GRADIENTS[device][1], dtype)
    recorded = []
    for case in map(functools.partial(replace, rule=device), cases(dtype)):
        of_output = inputs.output_gradient(len(case.rois), *case.pooled, dtype)
        of_features = rule.gradient(case, of_output).astype(dtype)
        output = np.zeros(case.output_shape, dtype)
        recorded.append(
            Call(case=case, output=output, output_gradient=of_output, features_gradient=of_features, device="Ascend")
        )
    for finding in identification.identify(recorded).gradients:
        if finding.hypothesis.gradient == rules.GRADIENTS[device][1]:
            assert not finding.refuted
            assert len(finding.explained) >= 6  # float16 may turn over a sample near the border
        else:
            assert len(finding.refuted) >= probes.CALLS_OF_A_PAIR, finding.hypothesis.name


# What no call of the probe shows: what a device makes of an index below 0, which may be read out of bounds, and of a
# box without a size in an adaptive grid, by which a kernel divides; and what is in rows that are never written.
NOT_SEEN = {
    ("cpu", "skips=None"),
    ("ascend-static", "smallest_count=1"),
    ("ascend-dynamic", "smallest_count=None"),
    ("ascend-dynamic", "index='trunc'"),
    ("ascend-950", "smallest_count=None"),
    ("ascend-950", "index='floor'"),
}


def test_each_field_of_a_named_rule_is_seen():
    seen = dict.fromkeys((pair for pair in probes.pairs() if "=" in pair.second.name), 0)
    for case, pair in itertools.product(cases("float64"), seen):
        seen[pair] += bool(probes.differ(pair, case).any())
    not_seen = {(pair.first.name, pair.second.name.partition(" in ")[0]) for pair, calls in seen.items() if calls < 2}
    assert not_seen == NOT_SEEN


def test_no_arithmetic_on_the_boxes_is_rounded():
    for hypothesis in HYPOTHESES.values():
        for cases_of_dtypes in zip(*map(cases, [*DTYPES, "float64"]), strict=True):
            half, single, double = (probes.output(hypothesis, case).values for case in cases_of_dtypes)
            np.testing.assert_array_equal(half, double)
            np.testing.assert_array_equal(single, double)


def test_no_box_reads_out_of_bounds_or_has_a_row_that_a_device_may_not_have():
    for case in cases("float32"):
        assert len(case.rois) <= inputs.CHANNELS
        assert (case.rois[:, 0] >= 0).all()
        assert (case.rois[:, 0] <= len(case.features) - 1).all()
        assert np.isfinite(case.rois).all()
