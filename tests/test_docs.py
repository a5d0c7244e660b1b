"""What the pages claim: their examples run, the tests and commands they name exist."""

import importlib
import importlib.metadata
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import EDGE_CASES, anchors, assert_same_bits
from slow_tests import SLOW
from torchvision.ops import roi_align

import ms2torch_roi
from ms2torch_roi.cli import main
from ms2torch_roi.commands.check import CASES_FOR_A_WORKLOAD
from ms2torch_roi.parity import cases

ROOT = Path(__file__).parent.parent


def _text(page):
    return (ROOT / page).read_text()


PAGES = [
    "README.md",
    "README.zh-CN.md",
    "MAPPING.md",
    "MAPPING.zh-CN.md",
    "EVIDENCE.md",
    "FORMAT.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "benchmarks/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if not path.is_symlink()),
    *(f"reports/{path.name}" for path in sorted((ROOT / "reports").glob("*.md"))),
]


def test_evidence_names_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _text("EVIDENCE.md"))
    assert len(named) > 300
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in _text(file)]
    assert not missing


def _tables(page, last_header):
    """Return the rows of each table of a page, after the group of the expression for its last header."""
    found = re.findall(rf"^\|.*\| {last_header} \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", _text(page), re.MULTILINE)
    # And every table has that header.
    assert len(found) == len(re.findall(r"^\|[-|]+\|$", _text(page), re.MULTILINE))
    return found


def test_every_row_of_evidence_names_a_test():
    rows = [row for table in _tables("EVIDENCE.md", "Test") for row in table.splitlines()]
    assert len(rows) > 200
    assert [row for row in rows if "`tests/" not in row] == []


def _chapter(page, anchor):
    _, *chapters = re.split(r"^#+ .*\n", _text(page), flags=re.MULTILINE)
    (text,) = (text for name, text in zip(anchors(_text(page)), chapters, strict=True) if name == anchor)
    return text


def test_every_row_of_mapping_has_its_number_in_evidence():
    used = []
    for anchor, table in _tables("MAPPING.md", r"\[Test\]\(EVIDENCE\.md#([\w-]+)\)"):
        numbers = [re.search(r"\| ([A-Z]\d+) \|$", row) for row in table.splitlines()]
        assert all(numbers), table
        named = re.findall(r"^\| ([A-Z]\d+) \|", _chapter("EVIDENCE.md", anchor), re.MULTILINE)
        assert {number[1] for number in numbers} <= {*named}, table
        used += [number[1] for number in numbers]
    assert len(used) > 180
    # No number is there twice, or for nothing.
    named = re.findall(r"^\| ([A-Z]\d+) \|", _text("EVIDENCE.md"), re.MULTILINE)
    assert len(named) == len({*named})
    in_prose = re.findall(r"\(([A-Z]\d+)\)", _text("MAPPING.md"))
    assert {*named} == {*used, *in_prose}


def _examples(page):
    return re.findall(r"```python\n(.*?)```", _text(page), re.DOTALL)


# Of the README, and what it leaves to a guide.
EXAMPLES = _examples("README.md") + _examples("docs/recorded-calls.md")


def test_readme_examples_run(capsys):
    assert len(EXAMPLES) == 5
    for example in EXAMPLES:
        if "import mindspore" not in example and "record" not in example:
            exec(example, {})
    printed = capsys.readouterr().out
    assert "tensor([[[[" in printed
    assert float(printed.split()[-1]) > 1  # what the mapping of the documentation would cost


@pytest.mark.parametrize("page", ["README.md", "docs/recorded-calls.md"])
def test_readme_example_of_a_recording_runs(page, tmp_path, monkeypatch):
    (example,) = (example for example in _examples(page) if "record" in example)
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


@pytest.mark.parametrize("page", [page for page in PAGES if re.search(r"^\$ ms2torch-roi", _text(page), re.MULTILINE)])
def test_commands_are_understood(page, capsys):
    for command in re.findall(r"^\$ ms2torch-roi (.*?)(?:  +#.*)?$", _text(page), re.MULTILINE):
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


def test_readme_begins_with_each_reader_and_how_to_see_it_work():
    first_screen = _text("README.md").splitlines()[:22]
    assert any(line.startswith("$ make check") for line in first_screen)
    assert any(line.startswith("$ make test") for line in first_screen)
    readers = [re.findall(r"`([^`]+)`", line) for line in first_screen if line.startswith("| [")]
    assert len(readers) == 5
    for install, command in readers:
        (extras,) = re.fullmatch(r"pip install '\.\[([\w,]+)\]'", install).groups()
        assert {*extras.split(",")} <= {*importlib.metadata.metadata("ms2torch-roi").get_all("Provides-Extra")}
        assert f"\n$ {command}" in _text("README.md") or f" {command}\n" in _text("README.md"), command
    # Frameworks of several GB are spoken of after the way to go without.
    assert _text("README.md").index("pip install") < _text("README.md").index(" GB ")


@pytest.mark.parametrize(
    ("page", "number", "shape"),
    [("docs/to-pytorch.md", 0, "(3, 256, 7, 7)"), ("docs/to-pytorch.md", 1, "(5, 8, 7, 7)")],
)
def test_examples_of_guides_run(page, number, shape, capsys):
    exec(_examples(page)[number], {})
    assert capsys.readouterr().out == f"torch.Size([{shape[1:-1]}])\n"


@pytest.mark.needs_mindspore
def test_example_of_the_guide_to_mindspore_runs(capsys):
    exec(_examples("docs/to-mindspore.md")[0], {})
    assert capsys.readouterr().out == "(2, 8, 7, 7)\n"


def test_the_port_by_hand_of_the_guide_is_explained_as_the_guide_says(tmp_path):
    page = _text("docs/own-port.md")
    (port,) = _examples("docs/own-port.md")
    (explanation,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_port.py").write_text(port)
    command = [sys.executable, "-m", "ms2torch_roi", "replay", "--golden", "--adapter", "my_port:roi_align"]
    result = subprocess.run(
        [*command, "--quiet", "--json", "facts.json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    cases, failed = re.search(r"Of (\d+) calls (\d+) fail", page).groups()
    assert f"DIFFERENT: {failed} of {cases} cases failed" in result.stdout
    assert " ".join(explanation.split()) in (tmp_path / "facts.json").read_text()


@pytest.mark.needs_mindspore
def test_the_head_of_the_guide_has_the_same_bits_before_and_after(tmp_path, monkeypatch):
    import mindspore

    (block,) = re.findall(r"```diff\n(.*?)```", _text("docs/to-pytorch.md"), re.DOTALL)
    lines = block.splitlines()
    for name, sign in (("before", "-"), ("after", "+")):
        text = "\n".join(line[1:] for line in lines if line.startswith((" ", sign)))
        (tmp_path / f"readme_{name}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = importlib.import_module("readme_before").MaskHead()
    after = importlib.import_module("readme_after").MaskHead()
    assert sum(parameter.numel() for parameter in after.parameters()) == 256 * 256 * 9 + 256
    features = np.random.default_rng(0).standard_normal((1, 256, 24, 30), np.float32)
    rois = np.float32([[0, 16, 20, 200, 120], [0, 30, 40, 33, 42]])
    pooled = before.pool(mindspore.Tensor(features), mindspore.Tensor(rois)).asnumpy()
    assert_same_bits(after.pool(torch.from_numpy(features), torch.from_numpy(rois)).numpy(), pooled)
    assert after(torch.from_numpy(features), torch.from_numpy(rois)).shape == (2, 256, 14, 14)
    assert before(mindspore.Tensor(features), mindspore.Tensor(rois)).shape == (2, 256, 14, 14)


def test_architecture_names_every_file_of_the_package_and_no_other():
    named = []
    tables = r"^\| in `ms2torch_roi/(\S*)` .*\n\|[-|]+\|\n((?:\|.*\|\n)+)"
    for parent, rows in re.findall(tables, _text("ARCHITECTURE.md"), re.MULTILINE):
        for first, description in re.findall(r"^\| (`.*?) \| (.*) \|$", rows, re.MULTILINE):
            folder, *_ = re.findall(r"`(\w+/)`", first) or [""]
            files = description if folder else first
            found = [folder + name for name in re.findall(r"`(\w+(?:\.py|/))`", files)]
            named += [parent + name for name in [*found, *([folder] if folder else [])]]
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
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", _text(page)):
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), (link, anchor)


def test_a_page_of_the_site_is_a_link_to_the_one_of_its_name():
    """An editor that replaces files may make two of one."""
    pages = {path.name for path in ROOT.glob("*.md")}
    assert pages <= {path.name for path in (ROOT / "docs").iterdir() if path.is_symlink()}


def test_the_changelog_is_in_the_form_of_keep_a_changelog():
    title, *versions = re.split(r"^## ", _text("CHANGELOG.md"), flags=re.MULTILINE)
    assert title.startswith("# Changelog\n")
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for number, version in enumerate(versions):
        released = re.match(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d\n", version)
        assert released or (number == 0 and version.startswith("[Unreleased]\n")), version.splitlines()[0]
        found = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found]
        blocks = re.split(r"\n\n|^### .*\n", version, flags=re.MULTILINE)[1:]
        assert all(block.strip().startswith("- ") for block in blocks if block.strip())


def test_the_reference_has_every_public_name():
    described = {*re.findall(r"^::: ms2torch_roi\.(\w+)", _text("docs/api.md"), re.MULTILINE)}
    assert described == {*ms2torch_roi._FRAMEWORK_NAMES, *ms2torch_roi._FUNCTIONS, "reference", "levels", "compat"}
