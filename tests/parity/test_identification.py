"""Recorded calls tell which device they were recorded on, whatever its rounding."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ms2torch_roi.cli import main
from ms2torch_roi.parity import cases, identification, operators
from ms2torch_roi.parity.identification import ALLOWED, conclude, hypotheses, identify
from ms2torch_roi.parity.recording import calls
from ms2torch_roi.parity.recording.calls import Call

NAMED = [one.name for one in hypotheses() if one.is_named]


def recorded(rule, numbers=range(60), seed=0, noise=0.0, backward_rule=None):
    """Return random calls as a device of this rule gives them, off by so much of what one may be off."""
    rng = np.random.default_rng(seed)
    found = []
    for number in numbers:
        case = cases.random_case(seed, number)
        output = operators.outcome(operators.reference, replace(case, rule=rule))
        if isinstance(output, Exception):
            continue
        found.append(Call(case=case, output=off(output, case, noise, rng), device="Ascend"))
        if backward_rule is not None and number % 4 == 0:
            given = operators.some_output_gradient(case)
            gradient = operators.gradient(replace(case, rule=rule), given, backward_rule=backward_rule)
            found[-1] = replace(found[-1], output_gradient=given, features_gradient=gradient)
    return found


def off(values, case, noise, rng):
    largest = noise * ALLOWED[values.dtype.name] * np.abs(case.features.astype(np.float64)).max()
    return (values + rng.uniform(-largest, largest, values.shape)).astype(values.dtype)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rule", NAMED)
def test_calls_of_every_rule_are_of_that_rule_and_of_no_other(rule, noise):
    """Of float16, float32 and both mixed, fixed and adaptive, in both modes."""
    conclusion = conclude(identify(recorded(rule, noise=noise)))
    assert (conclusion.verdict, conclusion.names) == ("one", [rule])
    assert conclusion.call == f"ms2torch_roi.ROIAlign(..., rule={rule!r})"


@pytest.mark.parametrize("one", [one for one in hypotheses() if not one.is_named], ids=lambda one: one.name)
def test_kernels_without_a_rule_are_named_as_what_they_are(one):
    every = identify(of_hypothesis(one, 80))
    (finding,) = (found for found in every.outputs if found.hypothesis == one)
    assert not finding.refuted
    assert len(finding.explained) > 10
    conclusion = conclude(every)
    assert (conclusion.verdict, conclusion.names, conclusion.call) == ("one", [one.name], "")


def of_hypothesis(one, count):
    """Return calls as a kernel without a rule gives them."""
    from ms2torch_roi.parity.rules import pool

    found = []
    for number in range(count):
        case = cases.random_case(3, number)
        if one.only not in (None, case.features.dtype.name) or (one.fixed_only and case.sample_num <= 0):
            continue
        placed = identification._placed(one, case, np.ones(case.output_shape))
        with np.errstate(all="ignore"):
            output = pool(placed.samples, case.features, case.pooled)
        found.append(Call(case=case, output=output, device="Ascend"))
    return found


def call_within_the_image(mode):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 4, 30, 40)).astype(np.float32)
    start = rng.uniform(32, 200, (30, 2))
    rois = np.hstack((np.zeros((30, 1)), start, start + rng.uniform(50, 200, (30, 2)))).astype(np.float32)
    case = cases.MindSporeCase(
        name="x", category="", source="", features=features, rois=rois, pooled_height=7, pooled_width=7,
        spatial_scale=1 / 16, roi_end_mode=mode,
    )  # fmt: skip
    return Call(case=case, output=operators.reference(case) * np.float32(1 + 1e-6), device="Ascend")


def test_calls_that_cannot_tell_are_of_several_rules():
    """Boxes of some cells within the image, in a fixed grid, are the same to all but the one that moves them."""
    for mode, names in ((0, NAMED), (1, [name for name in NAMED if name != "ascend-950"])):
        conclusion = conclude(identify([call_within_the_image(mode)]))
        assert (conclusion.verdict, conclusion.names) == ("several", names)
        assert "ms2torch-roi probe" in conclusion.sentence


def test_calls_of_two_devices_are_of_no_rule_and_the_closest_is_named():
    mixed = [*recorded("ascend-static", range(40)), *recorded("cpu", range(40, 50))]
    conclusion = conclude(identify(mixed))
    assert (conclusion.verdict, conclusion.names) == ("none", ["ascend-static"])


def test_a_device_with_a_kernel_for_each_dtype_is_told_kind_by_kind():
    """As the 910A has, where nothing else explains every call."""
    static = [call for call in recorded("ascend-static", range(60)) if call.case.features.dtype == np.float32]
    dynamic = [call for call in recorded("ascend-dynamic", range(60)) if call.case.features.dtype == np.float16]
    conclusion = conclude(identify([*static, *dynamic]))
    assert conclusion.verdict == "none"
    assert conclusion.by_kind == {
        "float16, adaptive grid": ["ascend-dynamic"],
        "float16, fixed grid": ["ascend-dynamic"],
        "float32, adaptive grid": ["ascend-static"],
        "float32, fixed grid": ["ascend-static"],
    }


@pytest.mark.parametrize("backward_rule", ["cpu", "ascend-static", "ascend-dynamic"])  # the 950 has the last one too
def test_the_rule_of_the_gradient_is_found_too(backward_rule):
    conclusion = conclude(identify(recorded("ascend-static", range(120), backward_rule=backward_rule)))
    assert conclusion.call == f"ms2torch_roi.ROIAlign(..., rule='ascend-static', backward_rule={backward_rule!r})"


def test_what_rounding_can_turn_over_tells_nothing():
    """A sample within a few last digits of the border, and a grid within a few of another number."""
    features = np.ones((1, 1, 8, 8), np.float32)
    for rois, sample_num in (([[0, 2.0, 2.0, 14 + 2e-6, 14.0]], 1), ([[0, 1.0, 1.0, 5.0000005, 5.0]], 0)):
        case = cases.MindSporeCase(
            name="x", category="", source="", features=features, rois=np.array(rois, np.float32), pooled_height=1,
            pooled_width=1, spatial_scale=1.0, sample_num=sample_num, roi_end_mode=0,
        )  # fmt: skip
        (static,) = (one for one in hypotheses() if one.name == "ascend-static")
        assert not identification._placed(static, case, np.ones((1, 1, 1, 1))).telling.any()
        exact = replace(case, rois=np.array([[0, 2.0, 2.0, 14.0, 14.0]], np.float32), sample_num=1)
        assert identification._placed(static, exact, np.ones((1, 1, 1, 1))).telling.all()


def test_the_explanation_of_a_call_takes_gpu_and_cpu_for_the_same():
    (call,) = recorded("cpu", [2])
    for asked, said in (("gpu", False), ("cpu", False), ("ascend-950", True)):
        asked_for = replace(call, case=replace(call.case, rule=asked))
        assert ("rule='cpu', not of 'ascend-950'" in identification.explanation(asked_for)) == said
        assert bool(identification.explanation(asked_for)) == said


def test_calls_of_one_name_are_counted_each():
    tried = identify([*recorded("cpu", [2]), *recorded("ascend-static", [2]), *recorded("cpu", [2])])
    by_name = {finding.hypothesis.name: finding for finding in tried.outputs}
    assert len(tried.kinds) == len({*by_name["cpu"].explained}) + len(by_name["cpu"].refuted) == 3


def test_errors_and_calls_of_torchvision_are_left_out():
    wrong = replace(cases.random_case(0, 0), raises=RuntimeError)
    tried = identify([Call(case=wrong, output=None), *recorded("cpu", range(9))])
    assert tried.left_out == 1
    with pytest.raises(ValueError, match="no call has a value"):
        conclude(identify([Call(case=wrong, output=None)]))


@pytest.fixture
def folder(tmp_path):
    def write(*calls_of_rules):
        for number, call in enumerate(calls_of_rules):
            calls.write(tmp_path / f"{number:03}.npz", call)
        return str(tmp_path)

    return write


def test_the_command_says_which_rule_and_has_a_status(folder, capsys, tmp_path):
    report = tmp_path / "facts.json"
    assert main(["identify", folder(*recorded("ascend-dynamic", range(30), noise=0.5)), "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "ms2torch_roi.ROIAlign(..., rule='ascend-dynamic')" in printed
    assert "on Ascend" in printed
    facts = json.loads(report.read_text())
    assert (facts["verdict"], facts["names"]) == ("one", ["ascend-dynamic"])
    by_name = {finding["name"]: finding for finding in facts["outputs"]}
    assert len(by_name["ascend-dynamic"]["explained"]) > 20
    assert by_name["cpu"]["refuted"]
    assert all({"difference", "row", "what"} == set(one) for one in by_name["cpu"]["refuted"].values())


def test_the_command_has_another_status_where_none_or_several_explain(folder, capsys, tmp_path):
    path = folder(*recorded("ascend-static", range(9)), *recorded("ascend-dynamic", range(9, 20)))
    assert main(["identify", path]) == 1
    assert "No rule explains all" in capsys.readouterr().out
    (tmp_path / "several").mkdir()
    calls.write(tmp_path / "several" / "call.npz", call_within_the_image(mode=0))
    assert main(["identify", str(tmp_path / "several")]) == 2
    assert "cpu, ascend-static, ascend-dynamic and ascend-950 explain the call" in capsys.readouterr().out


def test_the_command_refuses_what_it_cannot_use(tmp_path, capsys):
    assert main(["identify", str(tmp_path / "nothing")]) == 2
    assert main(["identify", str(tmp_path)]) == 2
    (tmp_path / "call.npz").write_bytes(b"no call")
    assert main(["identify", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("ms2torch-roi identify: cannot run: ") for line in errors)


def test_replay_names_the_rule_of_the_device_and_runs_it(folder, capsys):
    path = folder(*recorded("ascend-static", range(12), noise=0.2))
    assert main(["replay", path]) == 1
    assert "MindSpore's values are those of rule='ascend-static', not of 'cpu'." in capsys.readouterr().out
    assert main(["replay", path, "--rule", "ascend-static", "--atol", "0.03"]) == 0
    assert main(["replay", path, "--rule", "ascend-dynamic", "--atol", "0.03"]) == 1
