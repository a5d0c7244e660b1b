"""What the original operators return, for tests of whether a mistake in the port is noticed."""

import pytest
from helpers import EDGE_CASES

from ms2torch_roi import engine
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.torch import cpu


def _results(direction, random_case):
    every = [*cases.documented_cases(), *EDGE_CASES, *(random_case(0, number) for number in range(60))]
    return [(case, operators.outcome(operators.original, case)) for case in every if case.direction == direction]


@pytest.fixture(scope="session")
def mindspore_results():
    return _results("to-torch", cases.random_case)


@pytest.fixture(scope="session")
def torchvision_results():
    return _results("to-mindspore", cases.random_torchvision_case)


@pytest.fixture(params=["torchvision", "numba", "numpy"])
def road(request, monkeypatch):
    """What the port to torch runs small calls on: torchvision's operator, the engine, or the engine without Numba."""
    if request.param != "torchvision":
        monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    if request.param == "numpy":
        monkeypatch.setattr(engine, "_compiled", lambda: None)
