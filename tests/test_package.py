"""The wheel, as it would be published: built, and installed where nothing else is of this package."""

import email
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_mindspore
ROOT = Path(__file__).parent.parent

TEST = """
import pytest

@pytest.mark.needs_torch
def test_parity(roi_align_parity):
    import torch

    roi_align_parity(torch.ones(1, 1, 8, 8), torch.tensor([[0, 1.0, 1, 5, 5]]), pooled_height=2, pooled_width=2,
                     spatial_scale=1.0)
"""


def run(*command, cwd):
    """Run a command, without what would lead its Python to this repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    """The commands of a new environment that has the wheel, and all else that the one of the tests has."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (own,) = folder.glob("lib/python*/site-packages")
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *install, cwd=folder)
    # Folders that are named so are not asked for further ones, as an editable install of this repository is.
    (own / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin"


def test_the_readme_of_the_wheel_has_no_link_that_leads_nowhere(metadata):
    readme = metadata.get_payload(decode=True).decode()
    assert readme.startswith("# ms2torch_roi\n")
    assert "MAPPING.md" in readme
    assert "中文" not in readme
    assert re.findall(r"\]\((?!https?:)[^)]*\)", readme) == []


def test_all_has_mindspore_where_it_has_wheels_whatever_python_builds(metadata):
    of_all = [line for line in metadata.get_all("Requires-Dist") if "extra == 'all'" in line]
    assert {line.partition(";")[0] for line in of_all if "python_version < '3.13'" in line} == {
        "mindspore>=2.7",
        "numpy<2",
    }
    # Where it is asked for by name it is required, or the installation fails.
    (required,) = (line for line in metadata.get_all("Requires-Dist") if re.match(r"mindspore.*'mindspore'$", line))
    assert "python_version" not in required


def test_the_pages_that_docstrings_speak_of_are_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for page in ("MAPPING.md", "MAPPING.zh-CN.md", "EVIDENCE.md", "FORMAT.md", "CHANGELOG.md"):
            assert archive.read(f"ms2torch_roi/{page}") == (ROOT / page).read_bytes()


def test_the_command_and_its_reports_work_where_the_wheel_is_installed(scripts, tmp_path):
    place = run(scripts / "python", "-c", "import ms2torch_roi; print(ms2torch_roi.__file__)", cwd=tmp_path)
    assert Path(place).is_relative_to(scripts.parent)
    reports = ("--json", "facts.json", "--junit", "tests.xml", "--html", "report.html", "--summary", "summary.md")
    check = ("check", "--direction", "to-torch", "--cases", "0", "--workloads", "0", "--shard", "1/50", *reports)
    assert "IDENTICAL: " in run(scripts / "ms2torch-roi", *check, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {*reports[1::2]}
    assert "IDENTICAL: " in run(scripts / "ms2torch-roi", "replay", "--golden", cwd=tmp_path)
    for command in ("probe", "recorder"):
        run(scripts / "ms2torch-roi", command, cwd=tmp_path)
        assert (tmp_path / f"{command}.py").stat().st_size > 0


def test_the_pytest_plugin_works_where_the_wheel_is_installed(scripts, tmp_path):
    (tmp_path / "test_port.py").write_text(TEST)
    (golden,) = scripts.parent.glob("lib/python*/site-packages/ms2torch_roi/parity/golden/mindspore-2.10.0")
    options = ("-p", "no:cacheprovider", "--ms2torch-roi-calls", golden)
    result = run(scripts / "python", "-m", "pytest", *options, cwd=tmp_path)
    passed = re.search(r"= (\d+) passed in ", result)
    assert int(passed[1]) == 1 + len([*golden.glob("*.npz")])
