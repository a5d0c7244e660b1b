"""Where no rule fits to the bit, the closest is named with what it leaves; where none is near, nothing is."""

import re
from dataclasses import replace

import numpy as np
import pytest
import test_known_mistakes as known
from explained import CASE, mode, random_case

from ms2torch_roi.parity import assertions, cases, diagnosis, operators, verdicts

# This one moves values by less than the noise.
BY_HAND = {name: mistake for name, mistake in known.BY_HAND.items() if name != "half a cell there and back"}

LEFT = re.compile(r" What is left differs by at most ([\d.e-]+) in (\d+|less than 1) % of the values\.$")


def differences(port, wanted, count=2):
    """The first random cases for which a port gives other values, with those of the reference and of the port."""
    for number in range(300):
        case = random_case(cases.random_case, number)
        if not len(case.rois) or not wanted(case) or case.features.dtype != np.float32:
            continue
        actual = operators.outcome(port, case)
        if isinstance(actual, Exception):  # torchvision refuses some adaptive grids
            continue
        expected = operators.reference(case)
        if verdicts.judge(case, expected, actual).differing:
            yield case, expected, actual
            count -= 1
        if not count:
            return


def noisy(values, by=1e-4):
    noise = np.random.default_rng(0).uniform(-by, by, values.shape)
    return (values + noise).astype(values.dtype)


def in_float16(values):
    return values.astype(np.float16).astype(values.dtype)


@pytest.mark.parametrize("left", [noisy, in_float16])
@pytest.mark.parametrize(("port", "wanted", "exactly"), BY_HAND.values(), ids=BY_HAND)
def test_each_known_mistake_is_the_closest_through_noise_and_through_float16(port, wanted, exactly, left):
    name = exactly.removeprefix("The port's values match ").removesuffix(".")
    for case, expected, actual in differences(port, wanted):
        changed = left(actual)
        sentence = diagnosis.explain(case, expected, changed)
        assert f"alues match {name}." in sentence or f"The port's values are closest to {name}. " in sentence
        if "closest" in sentence:
            assert sentence.startswith("None of the known rules fits. ")
            most, share = LEFT.search(sentence).groups()
            apart = np.abs(changed.astype(np.float64) - actual)[~case.undefined & np.isfinite(actual).all((1, 2, 3))]
            assert float(most) == pytest.approx(apart.max(), rel=0.1)
            assert float(share.replace("less than 1", "0")) == pytest.approx(100 * (apart > 0).mean(), abs=5)


def test_a_recording_of_another_device_has_a_closest_rule_too():
    case = next(filter(mode(1), (random_case(cases.random_case, number) for number in range(99))))
    expected = noisy(operators.reference(replace(case, rule="ascend-950")), 3e-3)
    sentence = diagnosis.explain(case, expected, operators.port(case))
    assert "MindSpore's values are closest to roi_end_mode=1 computed with 1 added to x1 and y1" in sentence


UNKNOWN = {
    "garbage": lambda case, rng: rng.standard_normal(case.output_shape).astype(case.features.dtype),
    "noise of 1e-4": lambda case, _: noisy(operators.reference(case)),
    "noise of 0.1": lambda case, _: noisy(operators.reference(case), 0.1),
    "more samples": lambda case, _: operators.reference(replace(case, sample_num=case.sample_num + 1)),
    "bins in the other order": lambda case, _: operators.reference(case)[..., ::-1],
    "half a cell there and back": lambda case, _: noisy(known.BY_HAND["half a cell there and back"][0](case)),
    "zeros": lambda case, _: np.zeros(case.output_shape, case.features.dtype),
}


@pytest.mark.parametrize("made", UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_is_closest_to_what_no_rule_is_near_to(made):
    rng = np.random.default_rng(1)
    found = list(differences(lambda case: made(case, rng), mode(1), count=10))
    assert len(found) == 10
    for difference in found:
        sentence = diagnosis.explain(*difference)
        assert sentence.startswith("None of the known rules fits. ")
        assert "closest" not in sentence


def test_of_a_few_values_none_is_closest_by_chance():
    case = replace(CASE, features=CASE.features[:, :1], rois=CASE.rois[:1], pooled_height=1, pooled_width=1)
    expected = operators.reference(case)
    for number in range(40):
        values = np.random.default_rng(number).standard_normal(case.output_shape, np.float32)
        assert "closest" not in diagnosis.explain(case, expected, values)


@pytest.mark.parametrize(("width", "is_named"), [(4, False), (8, True)])
def test_a_gradient_of_fewer_than_8_values_has_no_closest_rule(width, is_named):
    case = replace(CASE, features=CASE.features[:1, :1, :1, :width], roi_end_mode=0)
    weights = operators.some_output_gradient(case)
    expected, actual = operators.gradient(case, weights), operators.gradient(case, weights, 1)
    sentence = diagnosis.explain_gradient(case, weights, expected, noisy(actual, 1e-3))
    assert ("closest to that of roi_end_mode=1" in sentence) == is_named


def test_a_gradient_has_a_closest_rule_too():
    case = replace(CASE, roi_end_mode=0)
    weights = operators.some_output_gradient(case)
    expected, actual = operators.gradient(case, weights), operators.gradient(case, weights, 1)
    assert re.fullmatch(
        r"None of the known rules fits\. The port's gradient is closest to that of roi_end_mode=1, not the"
        r" roi_end_mode=0 asked for\. What is left differs by at most [\d.e-]+ in \d+ % of the values\.",
        diagnosis.explain_gradient(case, weights, expected, noisy(actual, 3e-3)),
    )
    for values in (noisy(expected, 3e-3), np.random.default_rng(0).standard_normal(expected.shape, np.float32)):
        assert "closest" not in diagnosis.explain_gradient(case, weights, expected, values)


def test_what_is_not_finite_on_one_side_is_counted():
    case = replace(CASE, rois=np.tile(CASE.rois, (1000, 1)))
    expected, actual = operators.reference(case), noisy(operators.reference(replace(case, roi_end_mode=0)))
    actual[-1, 0, 0, 0] = np.nan
    assert diagnosis.explain(case, expected, actual).endswith(
        " in 100 % of the values, and in 1 a number is NaN or infinity."
    )


def test_failures_are_grouped_by_the_closest_rule_whatever_is_left():
    expected, wrong = operators.reference(CASE), operators.reference(replace(CASE, roi_end_mode=0))
    found = {
        verdicts.cause(replace(verdicts.judge(CASE, expected, actual), explanation=explanation))
        for actual in (noisy(wrong), noisy(wrong, 3e-4), in_float16(wrong))
        if (explanation := diagnosis.explain(CASE, expected, actual))
    }
    assert found == {"The port's values are closest to roi_end_mode=1 computed without the 1 added to x2 and y2"}


def test_a_result_of_another_dtype_has_a_closest_rule_too():
    expected, wrong = operators.reference(CASE), operators.reference(replace(CASE, roi_end_mode=0))
    with pytest.raises(AssertionError, match="returned float16 where") as error:
        assertions.assert_parity(
            CASE.features, CASE.rois, expected=expected, actual=wrong.astype(np.float16), **CASE.arguments
        )
    assert "The port's values are closest to roi_end_mode=1 computed without the 1 added to x2" in str(error.value)
    assert diagnosis.explain(CASE, expected, expected.astype(np.float16)) == (
        "The port returned float16 where MindSpore returned float32."
    )
