"""What the pages claim: their examples run, the tests and commands they name exist."""

import math
import re
from pathlib import Path

import pytest
import torch
from helpers import EDGE_CASES
from slow_tests import SLOW
from torchvision.ops import roi_align

from ms2torch_roi.cli import main
from ms2torch_roi.commands.check import CASES_FOR_A_WORKLOAD
from ms2torch_roi.parity import cases

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "MAPPING.md",
    "CHANGELOG.md",
    "FORMAT.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "benchmarks/README.md",
]


def _text(page):
    return (ROOT / page).read_text()


def test_mapping_names_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _text("MAPPING.md"))
    assert len(named) > 40
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in _text(file)]
    assert not missing


def test_every_row_of_mapping_names_a_test():
    tables = re.findall(r"^\|.*\| Test \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", _text("MAPPING.md"), re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 45
    assert [row for row in rows if "`tests/" not in row] == []
    # And every table has that column.
    assert len(tables) == len(re.findall(r"^\|[-|]+\|$", _text("MAPPING.md"), re.MULTILINE))


EXAMPLES = re.findall(r"```python\n(.*?)```", _text("README.md"), re.DOTALL)


def test_readme_examples_run(capsys):
    assert len(EXAMPLES) == 4
    for example in EXAMPLES:
        if "import mindspore" not in example and "record" not in example:
            exec(example, {})
    assert "tensor([[[[" in capsys.readouterr().out


def test_readme_example_of_a_recording_runs(tmp_path, monkeypatch):
    (example,) = (example for example in EXAMPLES if "record" in example)
    monkeypatch.chdir(tmp_path)
    rois = torch.tensor([[0, 1.0, 1.0, 5.0, 4.0]])
    exec(example, {"model": lambda images: roi_align(images, rois, 2), "images": torch.ones(1, 3, 8, 8)})
    assert len(list((tmp_path / "calls").iterdir())) == 1


@pytest.mark.needs_mindspore
def test_readme_example_on_mindspore_runs(capsys):
    (example,) = (example for example in EXAMPLES if "import mindspore" in example)
    exec(example, {})
    assert capsys.readouterr().out.startswith("[[[[")


def test_readme_ends_the_check_as_the_check_ends():
    makers = (cases.random_case, cases.random_torchvision_case)
    every = [*cases.documented_cases(), *EDGE_CASES, *(make(0, number) for make in makers for number in range(500))]
    count = values = 0
    for case in every:
        count += 1
        if case.raises is None:
            count += 1  # and its round trip
            values += 2 * int((~case.undefined).sum()) * math.prod(case.output_shape[1:])
    makers = (cases.workload_case, cases.torchvision_workload_case)
    for case in (make(0, number) for make in makers for number in range(500 // CASES_FOR_A_WORKLOAD)):
        count += 2  # and its gradient
        values += int((~case.undefined).sum()) * math.prod(case.output_shape[1:]) + case.features.size
    assert f"IDENTICAL: {count:,} cases, {values:,} values compared, 0 differ" in _text("README.md")


def test_readme_commands_are_understood(capsys):
    commands = re.findall(r"^\$ ms2torch-roi (.*?)(?:  +#.*)?$", _text("README.md"), re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([*command.replace("...", "").split(), "--help"])
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        assert set(re.findall(r"--[\w-]+", command)) <= known, command


def test_commands_of_make_exist():
    targets = set(re.findall(r"^([\w-]+):", _text("Makefile"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"):
        named = re.findall(r"(?:^\$ |`)make ([\w-]+)", _text(page), re.MULTILINE)
        assert named
        assert {*named} <= targets, page


def test_readme_begins_with_how_to_see_it_work():
    first_screen = _text("README.md").splitlines()[:16]
    assert any(line.startswith("$ make check") for line in first_screen)
    assert any(line.startswith("$ make test") for line in first_screen)


def test_architecture_names_every_file_of_the_package_and_no_other():
    table = re.search(r"^\| in `ms2torch_roi/` .*?\n\n", _text("ARCHITECTURE.md"), re.MULTILINE | re.DOTALL)[0]
    named = []
    for first, description in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE):
        folder, *_ = re.findall(r"`(\w+/)`", first) or [""]
        files = description if folder else first
        named += [folder + name for name in re.findall(r"`(\w+(?:\.py|/))`", files)] + ([folder] if folder else [])
    package = ROOT / "ms2torch_roi"
    assert [name for name in named if not (package / name).exists()] == []
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    described = {"__main__.py", *(str(path) for path in modules if path.name == "__init__.py")}
    missing = {str(path) for path in modules} - described - {*named}
    # A folder that is described as a whole, none of its files by name.
    whole = tuple(name for name in named if name.endswith("/") and sum(other.startswith(name) for other in named) == 1)
    assert {name for name in missing if not name.startswith(whole)} == set()


def test_slow_tests_exist():
    for part in SLOW:
        file, _, test = part.partition("::")
        if file.endswith(".py"):
            assert f"def {test}" in _text(file), part
        else:
            assert any(part in case.name for case in EDGE_CASES), part


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", _text(page)):
        assert (ROOT / page).parent.joinpath(link).exists(), link
