"""The golden calls: what each supported MindSpore returned, which the port must return too, without MindSpore."""

import shutil
import subprocess
import sys

import golden
import numpy as np
import pytest
from helpers import assert_same_bits

from ms2torch_roi.parity import operators, verdicts
from ms2torch_roi.parity.recording import calls

NAMES = [name for name, _ in golden.golden_cases()]
FILES = sorted(golden.GOLDEN.rglob(f"*{calls.SUFFIX}"))


def test_every_supported_mindspore_has_its_calls():
    expected = {
        golden.GOLDEN / f"mindspore-{version}" / f"{name}{calls.SUFFIX}": version
        for version in golden.MINDSPORE_VERSIONS
        for name in NAMES
    }
    assert set(FILES) == set(expected)
    for path, version in expected.items():
        call = calls.read(path)
        assert call.versions["mindspore"] == version
        assert call.device == "CPU"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_golden_call_replays_to_the_same_bits(path):
    call = calls.read(path)
    verdict = verdicts.judge(call.case, call.result, operators.outcome(operators.port, call.case))
    assert verdict.passed, verdict
    assert verdict.values > 0 or call.case.raises
    if call.features_gradient is not None:
        assert_same_bits(operators.gradient(call.case, call.output_gradient), call.features_gradient)


def test_the_command_replays_them_all_and_finds_one_other_value(tmp_path):
    def replay(*arguments):
        command = [sys.executable, "-m", "ms2torch_roi", "replay", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    result = replay("--golden")
    assert result.returncode == 0, result.stdout + result.stderr
    gradients = sum(calls.read(path).features_gradient is not None for path in FILES)
    assert result.stdout.splitlines()[-1].startswith(f"IDENTICAL: {len(FILES) + gradients} cases, ")

    shutil.copytree(FILES[0].parent, tmp_path / "calls")
    call = calls.read(FILES[0])
    call.output[0, 0, 0, 0] += 1
    calls.write(tmp_path / "calls" / FILES[0].name, call)
    result = replay(tmp_path / "calls")
    assert result.returncode == 1
    assert f"FAILED calls/{FILES[0].name} " in result.stdout


# One ends in an error, and those of boxes that are not finite are 0 but for a row whose index is NaN.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("index-out-of-range", "not-finite"))])
def test_a_golden_call_with_one_other_bit_fails(name):
    call = calls.read(golden.GOLDEN / f"mindspore-{golden.MINDSPORE_VERSIONS[-1]}" / f"{name}{calls.SUFFIX}")
    output = call.output.copy()
    has_bits = np.isfinite(output) & (output != 0) & ~call.case.undefined[:, None, None, None]
    at = tuple(np.argwhere(has_bits)[-1])
    output[at] = np.nextafter(output[at], output.dtype.type(9))
    assert verdicts.judge(call.case, output, operators.port(call.case)).differing == 1


def test_the_calls_cover_what_they_are_for():
    newest = golden.GOLDEN / f"mindspore-{golden.MINDSPORE_VERSIONS[-1]}"
    by_name = {name: calls.read(newest / f"{name}{calls.SUFFIX}") for name in NAMES}
    assert {call.case.roi_end_mode for call in by_name.values()} == {0, 1}
    dtypes = {(call.case.features.dtype.name, call.case.rois.dtype.name) for call in by_name.values()}
    assert len(dtypes) == 4
    assert sum(call.features_gradient is not None for call in by_name.values()) == 8
    for dtype in ("float32", "float16"):
        adaptive = by_name[f"adaptive-{dtype}"].output
        assert np.isfinite(adaptive[:3]).all()
        assert np.isnan(adaptive[3]).all()
        assert not adaptive[4].any()
        padded = by_name[f"zero-padded-{dtype}"]
        assert padded.case.undefined.tolist() == [False, True, False, True, True]
        assert not padded.output[padded.case.undefined].any()
        assert not by_name[f"not-finite-{dtype}"].output[:4].any()
    refused = by_name["index-out-of-range"]
    assert isinstance(refused.result, RuntimeError)
    assert "image_index 2" in refused.error_message


def test_the_files_are_small_and_numpy_alone_reads_them():
    assert max(path.stat().st_size for path in FILES) < 5_000
    assert sum(path.stat().st_size for path in FILES) < 500_000
    for path in FILES:
        with np.load(path, allow_pickle=False) as file:
            contents = {name: file[name] for name in file.files}
        assert {"features", "rois", "call"} <= set(contents)


def test_all_supported_mindspores_agree_on_every_bit():
    for name in NAMES:
        oldest, *newer = (
            calls.read(golden.GOLDEN / f"mindspore-{version}" / f"{name}{calls.SUFFIX}")
            for version in golden.MINDSPORE_VERSIONS
        )
        for call in newer:
            assert_same_call(oldest, call)


def assert_same_call(left, right):
    for array in ("output", "output_gradient", "features_gradient"):
        expected, actual = getattr(left, array), getattr(right, array)
        assert (expected is None) == (actual is None)
        if expected is not None:
            rows = ~left.case.crashes if array == "output" else slice(None)  # MindSpore is not given them any more
            assert_same_bits(actual[rows], expected[rows])
    for array in ("features", "rois"):
        assert_same_bits(getattr(right.case, array), getattr(left.case, array))
    assert left.case.arguments == right.case.arguments
    assert left.case.raises == right.case.raises


@pytest.mark.needs_mindspore
def test_the_installed_mindspore_gives_its_golden_calls_again():
    version = operators.import_mindspore().__version__
    if version not in golden.MINDSPORE_VERSIONS:
        pytest.skip(f"there are no golden calls of MindSpore {version}")
    for name, call in golden.golden_calls():
        assert_same_call(calls.read(golden.GOLDEN / f"mindspore-{version}" / f"{name}{calls.SUFFIX}"), call)
