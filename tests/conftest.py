import sys

import hypothesis
import pytest
from slow_tests import SLOW

from ms2torch_roi.parity import operators

# The frameworks are slow to start and the machines noisy: no deadline for a single example.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("quick", deadline=None, print_blob=True, max_examples=10)
hypothesis.settings.load_profile("default")


def pytest_ignore_collect(collection_path, config):
    """Import no file of which ``make quick`` would run nothing."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        return collection_path.relative_to(config.rootpath).as_posix() in SLOW or None
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if any(part in item.nodeid for part in SLOW):
            item.add_marker(pytest.mark.slow)


# Where its asserts fail, the values are shown, as in a test.
pytest.register_assert_rewrite("recordings")

# They hold no doctests, and pytest skips the second module of a name that it is to find some in.
collect_ignore_glob = ["*/conftest.py"]


@pytest.fixture(scope="module")
def ms():
    return operators.import_mindspore()


@pytest.fixture(scope="module")
def ours(ms):
    from ms2torch_roi import mindspore

    return mindspore


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Forget what other tests have compiled, which counts towards the limit of recompilations of a function."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


@pytest.fixture
def cells(ms, tmp_path, monkeypatch):
    """Models to be made ones of mixed precision, in a folder for what O1 makes of their source."""
    import mixed_precision_cells

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return mixed_precision_cells


@pytest.fixture
def graph_mode(ms):
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)
