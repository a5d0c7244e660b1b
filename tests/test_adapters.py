"""A user's own port, checked in a process that may die: every call of it has a verdict."""

import sys
import time

import adapters_of_users
import numpy as np
import pytest
from helpers import assert_same_bits

from ms2torch_roi import assert_parity
from ms2torch_roi.parity import adapters, campaign, cases, edges, operators, verdicts
from ms2torch_roi.parity.adapters import Adapter, AdapterError
from ms2torch_roi.parity.recording import calls

CASE = cases.random_case(0, 3)
OF_TORCHVISION = next(case for case in edges.edge_cases() if case.direction == "to-mindspore" and case.raises is None)


def adapter(name, **settings):
    return Adapter(f"adapters_of_users:{name}", **settings)


def verdict(one, case=CASE):
    return verdicts.judge(
        case, operators.reference(case), operators.outcome(lambda case: adapters.run(one, case), case)
    )


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    for sandbox in adapters._sandboxes.values():
        sandbox.close()
    adapters._sandboxes.clear()


@pytest.mark.parametrize(
    ("one", "case"),
    [
        (adapter("OfMindSpore"), CASE),
        (adapter("Prints"), CASE),
        (adapter("in_numpy", arrays="numpy"), CASE),
        (adapter("of_torchvision"), OF_TORCHVISION),
        (adapter("OfMmcv"), OF_TORCHVISION),
        (Adapter("ms2torch_roi:ROIAlign"), CASE),
        (Adapter("torchvision.ops:roi_align"), OF_TORCHVISION),
        (Adapter("torchvision.ops:RoIAlign"), OF_TORCHVISION),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_right_ports_of_every_convention_pass(one, case, capfd):
    assert one.kind is type(case)
    found = verdict(one, case)
    assert found.passed, found
    assert found.values
    assert capfd.readouterr().out == ""
    if one.arrays is None:
        assert_same_bits(one.call(case)[~case.undefined], operators.reference(case)[~case.undefined])


@pytest.mark.needs_mindspore
def test_mindspores_own_operator_is_one():
    one = Adapter("mindspore.ops:ROIAlign", arrays="mindspore")
    assert one.kind is cases.MindSporeCase
    assert verdict(one).passed


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Killed", "the process of adapters_of_users:Killed was killed by SIGSEGV"),
        ("Exits", "the process of adapters_of_users:Exits ended"),
        ("Raises", "KeyError: 'features'"),
        ("OfAnotherShape", "got float16 (11, 15, 5, 3)"),
        ("OfText", "returned str, not an array of numbers"),
        ("Masked", "returned a masked array, of which some values may mean nothing"),
    ],
)
def test_whatever_an_adapter_does_is_a_failed_case(name, problem):
    one = adapter(name)
    for _ in range(2):  # in a new process, if the first one died
        found = verdict(one)
        assert not found.passed
        assert problem in found.problem


def test_an_adapter_that_hangs_is_stopped():
    one = adapter("Hangs", timeout=1)
    started = time.monotonic()
    assert "adapters_of_users:Hangs took more than 1 s and was stopped" in verdict(one).problem
    assert time.monotonic() - started < 60


def test_a_mistake_is_seen_as_values_that_differ():
    case = cases.documented_cases()[1]
    found = verdict(adapter("naive"), case)
    assert (found.problem, found.differing) == ("", found.values)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adapters_of_users", "an adapter is package.module:name, got 'adapters_of_users'"),
        ("no_such_module:x", "no_such_module:x cannot be imported: ModuleNotFoundError"),
        ("adapters_of_users:nothing", "adapters_of_users:nothing cannot be imported: AttributeError"),
        ("adapters_of_users:NOT_A_FUNCTION", "is a int, which cannot be called"),
        ("adapters_of_users:of_nothing", "of_nothing has the parameters x: with pooled_height it would be"),
    ],
)
def test_what_is_no_adapter_is_refused(name, message):
    with pytest.raises(AdapterError, match=message.replace(".", r"\.")):
        _ = Adapter(name).kind


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(0)", "at_import:port cannot be imported: SystemExit: 0"),
        ("import os; os._exit(0)", "the process of at_import:port ended while it was imported"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL while it was imported"),
        ("import time; time.sleep(1000)", "at_import:port took more than 5 s to be imported and was stopped"),
    ],
)
def test_whatever_an_adapter_does_when_it_is_imported_is_an_error(tmp_path, monkeypatch, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapters, "_IMPORT_SECONDS", 5.0 if "sleep" in code else 120.0)
    (tmp_path / "at_import.py").write_text(f"{code}\ndef port(input, boxes, output_size): ...\n")
    one = Adapter("at_import:port", timeout=1)
    with pytest.raises(AdapterError, match=message):
        _ = one.kind


def test_what_an_adapter_does_to_the_process_that_imports_it_is_not_done_here(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    lines = (
        "import atexit, os",
        "atexit.register(os._exit, 0)",
        "print('imported')",
        "from adapters_of_users import *",
    )
    (tmp_path / "noisy.py").write_text("\n".join(lines))
    one = Adapter("noisy:naive")
    assert one.kind is type(CASE)
    assert "noisy" not in sys.modules
    assert capfd.readouterr().out == ""


def test_an_error_where_one_must_be_passes_whatever_its_type():
    case = next(case for case in edges.edge_cases() if case.direction == "to-torch" and case.raises is not None)
    one = adapter("Raises")
    assert verdicts.judge(case, case.raises("x"), operators.outcome(lambda case: adapters.run(one, case), case)).passed


def test_rows_that_no_operator_defines_are_not_compared():
    case = next(case for case in edges.edge_cases() if "unwritten" in case.category)
    assert case.undefined.any()
    assert np.isfinite(operators.reference(case)).all()
    assert verdict(adapter("naive"), case).problem == ""


# In check, replay and assert_parity.


def some_checks(one, **settings):
    return campaign.Check(
        2, with_mindspore=False, directions=(one.kind.direction,), adapter=one, tolerance=verdicts.EXACT, **settings
    )


def test_a_check_of_an_adapter_names_the_mistake_and_how_to_see_it_again(capsys):
    check = some_checks(adapter("naive"))
    (of_mode_0,), (documented,) = check.verdicts(0), check.verdicts(1)
    assert of_mode_0.passed
    assert not documented.passed
    assert "with aligned=True (boxes moved by half a cell)" in documented.explanation
    exec(documented.reproduction, {})
    assert "differing=9" in capsys.readouterr().out


def test_a_check_of_an_adapter_that_dies_goes_on():
    check = some_checks(adapter("Exits"))
    for number in (0, len(check) - 1):
        (found,) = check.verdicts(number)
        assert "the process of adapters_of_users:Exits ended" in found.problem
        assert check.shrunk(found) == found


def test_an_adapter_that_can_be_imported_only_once_has_a_verdict_for_each_case(tmp_path, monkeypatch):
    """By the command, and not by its workers, as where a GPU has no memory left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "once.py").write_text(
        "import os, pathlib\n"
        "if pathlib.Path('imported').exists():\n    os._exit(3)\n"
        "pathlib.Path('imported').touch()\n"
        "from adapters_of_users import naive\n"
    )
    calls.write(tmp_path / "0.npz", calls.Call(case=CASE, output=operators.reference(CASE)))
    one = Adapter("once:naive")
    assert one.kind is type(CASE)
    adapters._sandboxes.pop(one).close()
    (found,) = campaign.Replay((tmp_path / "0.npz",), adapter=one).verdicts(0)
    assert "AdapterError: the process of once:naive ended while it was imported" in found.problem


def test_recorded_calls_are_replayed_on_an_adapter(tmp_path):
    for name, case in (("mine", CASE), ("other", OF_TORCHVISION)):
        calls.write(tmp_path / f"{name}.npz", calls.Call(case=case, output=operators.reference(case)))
    replay = campaign.Replay((tmp_path / "mine.npz", tmp_path / "other.npz"), adapter=adapter("naive"))
    (mine,), (other,) = replay.verdicts(0), replay.verdicts(1)
    assert not mine.passed
    assert "adapters.Adapter(name='adapters_of_users:naive'" in mine.reproduction
    assert list(other.left_out) == [campaign.NOT_FOR_ADAPTER]


def test_assert_parity_of_an_adapter():
    arguments = CASE.arguments
    for right in ("adapters_of_users:OfMindSpore", adapters_of_users.OfMindSpore):
        assert_parity(CASE.features, CASE.rois, adapter=right, expected=operators.reference(CASE), **arguments)
    case = cases.documented_cases()[1]
    with pytest.raises(AssertionError, match="the adapter naive"):
        assert_parity(
            case.features,
            case.rois,
            adapter=adapters_of_users.naive,
            expected=operators.reference(case),
            **case.arguments,
        )
    with pytest.raises(TypeError, match="give actual or an adapter, not both"):
        assert_parity(CASE.features, CASE.rois, adapter=adapters_of_users.naive, actual=CASE.features, **arguments)
