"""The table of versions: which pairs are checked, what a row says of one, and where the table goes."""

import datetime
import re
import subprocess
import sys

import matrix
import pytest

DATE = datetime.date(2026, 1, 2)
IDENTICAL = matrix.Row("2.7.0", "2.4.1", "0.19.1", "3.11.7", "1.26.4", cases=1635, values=1443434, tests="599 passed")


def cells(table):
    """The rows of a table under its header, as lists of cells."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    page = tmp_path / "EVIDENCE.md"
    page.write_text(f"before\n{matrix.START}an old table\n{matrix.END}\nafter\n")
    monkeypatch.setattr(matrix, "EVIDENCE", page)
    return page


def test_every_version_is_checked_and_the_oldest_with_the_oldest():
    pairs = list(matrix.version_pairs())
    assert len(set(pairs)) == len(pairs)
    assert {mindspore for mindspore, _ in pairs} == set(matrix.MINDSPORE_VERSIONS)
    assert {torch for _, torch in pairs} == set(matrix.TORCH_VERSIONS)
    assert (matrix.MINDSPORE_VERSIONS[0], matrix.TORCH_VERSIONS[0]) in pairs


def test_the_page_has_a_row_for_every_pair():
    _, _, rest = matrix.EVIDENCE.read_text().partition(matrix.START)
    table, end, _ = rest.partition(matrix.END)
    assert end
    assert [tuple(row[:2]) for row in cells(table)] == list(matrix.version_pairs())


def test_a_row_says_what_was_compared_and_with_which_tests():
    ((*facts, tests),) = cells(matrix.as_markdown([IDENTICAL], DATE))
    assert facts == ["2.7.0", "2.4.1", "0.19.1", "3.11.7", "1.26.4", "1,635", "1,443,434", "0", "identical"]
    assert tests.startswith("599 passed: `tests/")
    assert all(f"`{file}::{test}`" in tests for file, test in matrix.TESTS.items())


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        (
            {"differing": 3, "failed": 2, "failed_categories": ["to-torch, edge: grids"]},
            "DIFFERENT: 2 cases failed (to-torch, edge: grids)",
        ),
        ({"problem": "tests: 1 failed, 598 passed"}, "tests: 1 failed, 598 passed"),
        ({"problem": "cannot be installed: a | b"}, r"cannot be installed: a \| b"),
    ],
)
def test_a_row_says_why_it_is_not_identical(facts, verdict):
    row = matrix.Row("2.7.0", "2.4.1", **facts)
    assert not row.passed
    ((*_, said, _),) = cells(matrix.as_markdown([row], DATE))
    assert said == verdict


def test_versions_that_cannot_be_installed_are_a_row_too(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(1, "uv", stderr="resolving\nno wheel for torch==9\n")

    monkeypatch.setattr(matrix, "make_environment", fail)
    row = matrix.check("2.7.0", "9", cases=1)
    assert row.verdict == "cannot be installed: no wheel for torch==9"
    assert not row.passed


def test_the_table_goes_between_the_markers_and_replaces_the_one_there(evidence):
    for rows in ([IDENTICAL, IDENTICAL], [IDENTICAL]):
        table = matrix.as_markdown(rows, DATE)
        matrix.write_evidence(table)
        assert evidence.read_text() == f"before\n{matrix.START}{table}{matrix.END}\nafter\n"
    assert table.startswith("Measured on 2026-01-02 ")


@pytest.mark.parametrize("page", ["no markers\n", f"{matrix.START}no end\n", f"{matrix.END}\n{matrix.START}"])
def test_a_page_without_markers_is_refused_before_anything_is_checked(evidence, page, monkeypatch, capsys):
    evidence.write_text(page)
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--write"])
    monkeypatch.setattr(matrix, "check", lambda *_: pytest.fail("a pair was checked"))
    with pytest.raises(SystemExit, match="2"):
        matrix.main()
    assert "EVIDENCE.md has no lines <!-- matrix --> and <!-- /matrix -->" in capsys.readouterr().err
    assert evidence.read_text() == page


@pytest.mark.parametrize(("problem", "status"), [("", 0), ("tests: 1 failed", 1)])
def test_the_status_is_1_unless_all_are_identical(evidence, problem, status, monkeypatch, capsys):
    old = evidence.read_text()
    monkeypatch.setattr(sys, "argv", ["matrix.py"])
    checked = {pair: matrix.Row(*pair) for pair in matrix.version_pairs()}
    checked["2.8.0", matrix.TORCH_VERSIONS[-1]].problem = problem
    monkeypatch.setattr(matrix, "check", lambda *pair_and_cases: checked[pair_and_cases[:2]])
    assert matrix.main() == status
    assert [tuple(row[:2]) for row in cells(capsys.readouterr().out)] == list(matrix.version_pairs())
    assert evidence.read_text() == old
