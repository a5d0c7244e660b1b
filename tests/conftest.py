import importlib.util

import hypothesis
import pytest

# The frameworks are slow to start and the machines noisy: no deadline for a single example.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("mindspore") is not None:
        return
    skip = pytest.mark.skip(reason="MindSpore is not installed: pip install 'ms2torch-roi[mindspore]'")
    for item in items:
        if "mindspore" in item.keywords:
            item.add_marker(skip)
