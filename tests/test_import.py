import ast
import importlib.metadata
import importlib.resources
import importlib.util
import re
import shlex
import statistics
from pathlib import Path

import pytest
from helpers import run_python, without

import ms2torch_roi

PYPROJECT = (Path(__file__).parent.parent / "pyproject.toml").read_text()


def test_import_loads_no_framework():
    code = (
        "import sys, ms2torch_roi\n"
        "print([name for name in ('torch', 'torchvision', 'mindspore', 'rich') if name in sys.modules])"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_reference_and_cases_load_no_framework():
    code = (
        "import sys\nfrom ms2torch_roi import reference\nfrom ms2torch_roi.parity import cases, operators\n"
        "operators.reference(cases.documented_cases()[0])\n"
        "print([name for name in ('torch', 'torchvision', 'mindspore', 'rich') if name in sys.modules])"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_import_takes_under_50_ms_over_numpy():
    code = "import time, numpy\nstart = time.perf_counter()\nimport ms2torch_roi\nprint(time.perf_counter() - start)"
    assert statistics.median(float(run_python(code).stdout) for _ in range(5)) < 0.05


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_missing_framework_names_the_extra(package):
    result = run_python(without(package) + "from ms2torch_roi import ROIAlign")
    assert result.returncode == 1
    assert f"ImportError: ms2torch_roi.ROIAlign runs on torch and torchvision, but {package} is not installed" in (
        result.stderr
    )
    assert "Install the extra 'torch' with: pip install 'numba>=0.60' 'torch>=" in result.stderr


@pytest.mark.parametrize("name", ["RoIAlign", "roi_align"])
def test_missing_mindspore_names_the_extra_of_the_way_back(name):
    result = run_python(without("mindspore") + f"from ms2torch_roi import {name}")
    assert result.returncode == 1
    assert f"ImportError: ms2torch_roi.{name} runs on mindspore, but mindspore is not installed" in result.stderr
    assert "Install the extra 'mindspore' with: pip install 'mindspore>=" in result.stderr


@pytest.mark.needs_mindspore
def test_the_way_back_does_not_need_torch():
    code = (
        "import mindspore, numpy\nfrom ms2torch_roi import roi_align\n"
        "features, boxes = numpy.ones((1, 1, 9, 9), 'f4'), numpy.array([[0, 1, 1, 5, 4]], 'f4')\n"
        "print(roi_align(mindspore.Tensor(features), mindspore.Tensor(boxes), 2).shape)"
    )
    assert run_python(without("torch") + code).stdout.strip() == "(1, 1, 2, 2)"


def test_missing_mindspore_names_the_extra():
    result = run_python(
        without("mindspore") + "from ms2torch_roi.parity import operators\noperators.import_mindspore()"
    )
    assert f"ImportError: MindSpore is not installed. {ms2torch_roi.how_to_install('mindspore')}\n" in result.stderr


@pytest.mark.parametrize("extra", ["torch", "mindspore", "cli", "plot", "port"])
def test_a_hint_installs_what_the_extra_does_and_not_this_package(extra):
    hint = ms2torch_roi.how_to_install(extra)
    (listed,) = re.findall(rf"^{extra} = (\[.*\])$", PYPROJECT, re.MULTILINE)
    named = hint.removeprefix(f"Install the extra '{extra}' with: pip install ")
    assert sorted(shlex.split(named)) == sorted(ast.literal_eval(listed))


def test_where_nothing_is_known_of_the_extras_the_hint_names_it(monkeypatch):
    def not_found(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", not_found)
    assert ms2torch_roi.how_to_install("torch") == "It comes with the extra 'torch' of ms2torch-roi."


@pytest.mark.parametrize("version", [(3, 9), (3, 13), (3, 14)])
def test_a_python_that_mindspore_has_no_wheels_for_is_said(version):
    major, minor = version
    code = (
        f"{without('mindspore')}import ms2torch_roi\nfrom ms2torch_roi.parity import operators\n"
        f"sys.version_info = ({major}, {minor}, 0)\n"
        "for use in (lambda: ms2torch_roi.RoIAlign, operators.import_mindspore):\n"
        "    try:\n        use()\n    except ImportError as error:\n        print(error)\n"
    )
    lines = run_python(code).stdout.splitlines()
    assert len(lines) == 2
    said = f"MindSpore has wheels from CPython 3.10 to 3.12, and this is Python {major}.{minor}."
    assert all(line.endswith(f"is not installed. {said}") for line in lines)


ABSENT = ("import importlib.util\nfind = importlib.util.find_spec\n"
          "importlib.util.find_spec = lambda name: None if name in {absent} else find(name)\n")  # fmt: skip


@pytest.mark.parametrize(
    ("absent", "names"),
    [
        (("torch",), {"MultiScaleRoIAlign", "RoIAlign", "roi_align"}),
        (("torchvision", "mindspore"), set()),
        (("mindspore",), {"ROIAlign", "SingleRoIExtractor"}),
    ],
)
def test_everything_that_can_be_had_is_imported_where_a_framework_is_missing(absent, names):
    if "mindspore" not in absent and importlib.util.find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed")
    code = (
        "".join(without(package).replace("Absent", f"Absent{i}") for i, package in enumerate(absent))
        + ABSENT.format(absent=absent)
        + "names = {}\nexec('from ms2torch_roi import *', names)\nprint(sorted(set(names) - {'__builtins__'}))"
    )
    result = run_python(code)
    anywhere = {"assert_parity", "compare", "record", "reference", "save_call"}
    assert result.stdout.strip() == str(sorted(anywhere | names)), result.stderr


def test_extras_named_in_errors_exist():
    extras = importlib.metadata.metadata("ms2torch-roi").get_all("Provides-Extra")
    assert set(extras) == {"torch", "mindspore", "cli", "plot", "port", "dask", "remote", "all", "test", "docs", "dev"}


def test_package_itself_depends_on_numpy_alone():
    requirements = importlib.metadata.requires("ms2torch-roi")
    assert [name for name in requirements if "extra ==" not in name] == ["numpy>=1.24"]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ms2torch_roi' has no attribute 'RoIPool'"):
        _ = ms2torch_roi.RoIPool


def test_public_names_are_listed():
    names = {"ROIAlign", "RoIAlign", "assert_parity", "record", "reference", "roi_align", "save_call"}
    assert names <= set(dir(ms2torch_roi))


def test_package_is_typed():
    assert importlib.resources.files("ms2torch_roi").joinpath("py.typed").is_file()


def test_the_default_device_at_import_does_not_matter():
    code = (
        "import torch\ntorch.set_default_device('meta')\n"
        "from ms2torch_roi import ROIAlign\n"
        "features, rois = torch.ones(1, 1, 8, 8, device='cpu'), torch.tensor([[0, 1, 1, 5, 5.0]], device='cpu')\n"
        "print(ROIAlign(1, 1, 1.0)(features, rois).item(), ROIAlign(1, 1, 1.0, 0)(features, rois).item())"
    )
    assert run_python(code).stdout == "1.0 1.0\n"
