"""The scripts that commands write: one file each, for Python 3.7, that needs NumPy and MindSpore only."""

import ast
import subprocess
import sys

import pytest
from helpers import without

from ms2torch_roi.cli import main
from ms2torch_roi.parity import scripts

NAMES = ["probe", "recorder"]

# Modules that Python 3.7 has, and names that it does not.
LIBRARY = {
    "__future__", "argparse", "atexit", "datetime", "functools", "io", "json", "os", "pathlib", "platform", "runpy",
    "sys", "threading", "typing", "zipfile",
}  # fmt: skip
CAME_LATER = {
    "BooleanOptionalAction", "UTC", "cache", "cached_property", "exit_on_error", "is_relative_to", "missing_ok", "prod",
    "removeprefix", "removesuffix", "strict", "unparse", "with_stem",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_is_of_python_3_7_and_imports_numpy_and_mindspore_only(name):
    tree = ast.parse(scripts.source(name), feature_version=(3, 7))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    assert {module.split(".")[0] for module in imported} <= {*LIBRARY, "numpy", "mindspore"}


@pytest.mark.parametrize("name", NAMES)
def test_it_calls_nothing_that_came_after_python_3_7(name):
    tree = ast.parse(scripts.source(name))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not used & CAME_LATER


@pytest.mark.parametrize("name", NAMES)
def test_it_is_formatted_and_has_the_writer_once(name):
    source = scripts.source(name)
    assert source.count("def write(") == source.count("def save(") == 1
    assert max(map(len, source.splitlines())) <= 120
    command = [sys.executable, "-m", "ruff", "format", "--diff", "--isolated", "--line-length", "120", "-"]
    ruff = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if "No module named ruff" in ruff.stderr:
        pytest.skip("ruff is not installed")
    assert ruff.returncode == 0, ruff.stdout


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("older", [b"", b"\n# an older one\n", b"\r\n# an older one\r\n"])
def test_it_is_written_to_its_name_or_another_one_in_place_of_an_older_one(name, older, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.py"
    other.write_bytes(older and scripts.source(name).splitlines()[0].encode() + older)
    assert main([name]) == main([name, "--out", str(other)]) == 0
    assert (tmp_path / f"{name}.py").read_text(encoding="utf-8") == other.read_text(encoding="utf-8")
    assert other.read_text(encoding="utf-8") == scripts.source(name)


@pytest.mark.parametrize("name", NAMES)
def test_no_other_file_is_lost_to_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / f"{name}.py"
    mine.write_text("print('mine')\n")
    assert main([name]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"ms2torch-roi {name}: cannot run: --out: {name}.py is there already, and is no {name} of ms2torch-roi"
    ]
    assert mine.read_text() == "print('mine')\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_written_is_one_line_and_status_2(name, tmp_path, capsys):
    assert main([name, "--out", str(tmp_path / "nowhere" / "script.py")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ms2torch-roi {name}: cannot run: --out: [Errno 2] No such file or directory")


@pytest.mark.parametrize(("name", "arguments"), [("probe", []), ("recorder", ["train.py"])])
def test_without_mindspore_it_says_so_in_a_line(name, arguments, run, tmp_path):
    (tmp_path / "train.py").write_text("")
    result = run(name, *arguments, before=without("mindspore"))
    assert result.returncode == 2
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"{name}.py: error: ")
    assert line.endswith("No module named 'mindspore'")
