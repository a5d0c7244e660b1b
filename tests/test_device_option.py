"""``--device``: where torch runs its port in check and replay, and what is said of it."""

import numpy as np
import pytest
import torch

from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign, cases, edges, operators
from ms2torch_roi.torch import operator

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")


@pytest.fixture
def devices(monkeypatch):
    """Where the ports and their gradients are run from now on; all of them run on the CPU."""
    found = []

    def on_cpu(function):
        def run(case, *arguments, device="cpu", **keywords):
            found.append(device)
            return function(case, *arguments, **keywords)

        run.__name__ = function.__name__
        return run

    for name in ("port", "gradient", "round_trip"):
        monkeypatch.setattr(operators, name, on_cpu(getattr(operators, name)))
    return found


def numbers_of(check, wanted):
    return [number for number in range(len(check)) if wanted(check.case(number))]


def test_the_port_to_torch_runs_on_the_device_and_the_other_does_not(devices):
    check = campaign.Check(1, workloads=0, with_mindspore=False, directions=("to-torch",), device="cuda:1")
    (number,) = numbers_of(check, lambda case: case.category.startswith(cases.RANDOM))
    (verdict,) = check.verdicts(number)
    assert verdict.passed
    assert devices == ["cuda:1"]


def test_a_case_that_must_end_in_an_error_is_left_out_on_another_device(devices):
    check = campaign.Check(0, with_mindspore=False, directions=("to-torch",), device="cuda")
    errors = numbers_of(check, lambda case: case.raises is not None)
    assert len(errors) > 5
    for number in errors:
        (verdict,) = check.verdicts(number)
        assert (verdict.passed, verdict.values, list(verdict.left_out)) == (True, 0, [campaign.NOT_ON_DEVICE])
    assert not devices


def test_a_failure_on_a_device_is_run_there_again(monkeypatch):
    monkeypatch.setattr(operators, "port", lambda case, device: operators.reference(case) + 1)
    check = campaign.Check(0, with_mindspore=False, directions=("to-torch",), device="cuda")
    (verdict,) = check.verdicts(0)
    assert "lambda case: operators.<lambda>(case, 'cuda')" in verdict.reproduction


def test_recorded_calls_are_replayed_on_the_device(devices, tmp_path):
    from ms2torch_roi.parity.recording import calls

    case = next(case for case in edges.edge_cases() if case.direction == "to-torch" and case.raises is None)
    output = operators.reference(case)
    ones = np.ones_like(output)
    gradient = operators.gradient(case, ones)
    del devices[:]
    call = calls.Call(case=case, output=output, output_gradient=ones, features_gradient=gradient)
    calls.write(tmp_path / "call.npz", call)
    verdicts = campaign.Replay((tmp_path / "call.npz",), device="cuda").verdicts(0)
    assert all(verdict.passed for verdict in verdicts)
    assert devices == ["cuda", "cuda"]


def test_what_computes_on_a_cpu_is_said(capsys):
    assert operator.engine_on(torch.device("cpu")) == "Numba's kernels on the CPU"
    assert main(["check", "--without-mindspore", "--cases", "1"]) == 0
    assert "ROIAlign computes on Numba's kernels on the CPU." in capsys.readouterr().out


def test_what_computes_without_triton_is_said(monkeypatch):
    monkeypatch.setattr(operator, "_triton", lambda: None)
    assert operator.engine_on(torch.device("cuda")) == "torchvision's operator on cuda, whose bits may be others"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--without-mindspore", "--device", "nowhere"], "--device: ROIAlign cannot run on 'nowhere': "),
        (["check", "--without-mindspore", "--device", "meta"], "--device: ROIAlign cannot run on 'meta': "),
        (["check", "--direction", "to-mindspore", "--device", "cuda"], "--direction to-mindspore runs on a CPU"),
        (["replay", "--golden", "--device", "nowhere"], "--device: ROIAlign cannot run on 'nowhere': "),
    ],
)
def test_a_device_that_cannot_be_used_is_refused_in_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ms2torch-roi {arguments[0]}: cannot run: {message}")


@on_a_gpu
def test_check_and_replay_on_a_gpu(capsys):
    assert main(["check", "--without-mindspore", "--cases", "40", "--device", "cuda"]) == 0
    assert "Triton's kernels on " in capsys.readouterr().out
    assert main(["replay", "--golden", "--device", "cuda"]) == 0
