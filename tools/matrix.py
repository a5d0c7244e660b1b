"""Check every supported version of both frameworks, and write what came of it to EVIDENCE.md.

Each MindSpore is checked with the newest torch, each minor version of torch (its last patch, with the torchvision made
for it) with the newest MindSpore, and the oldest of both with each other: every pair in an environment of its own,
which uv makes and which is removed again. There, ``ms2torch-roi check`` and the tests in ``TESTS`` run.

uv keeps what it downloads, some 60 GB for the whole matrix; with ``UV_NO_CACHE=1`` it keeps nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from golden import MINDSPORE_VERSIONS, ROOT, make_environment

# The last patch of every minor version since 2.7.
TORCH_VERSIONS = ("2.7.1", "2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0")

# What must hold in every environment, beside the check: gradients, and the recorded calls of every MindSpore.
TESTS = {
    "tests/parity/test_gradients.py": "test_random_case",
    "tests/test_golden.py": "test_every_golden_call_replays_to_the_same_bits",
}

EVIDENCE = ROOT / "EVIDENCE.md"
START, END = "<!-- matrix -->\n", "<!-- /matrix -->"


@dataclass
class Row:
    """What came of one pair of versions; ``problem`` says why there is nothing, or not everything."""

    mindspore: str
    torch: str
    torchvision: str = "?"
    python: str = "?"
    numpy: str = "?"
    cases: int = 0
    values: int = 0
    differing: int = 0
    failed: int = 0
    failed_categories: list[str] = field(default_factory=list)
    tests: str = "not run"
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether everything ran and nothing differs."""
        return not (self.problem or self.failed or self.differing)

    @property
    def verdict(self) -> str:
        """The row in a word, or the reason why not."""
        if self.problem:
            return self.problem
        if self.passed:
            return "identical"
        return f"DIFFERENT: {self.failed:,} cases failed ({', '.join(self.failed_categories)})"


def version_pairs() -> Iterator[tuple[str, str]]:
    """Yield the pairs of a MindSpore and a torch to check."""
    yield MINDSPORE_VERSIONS[0], TORCH_VERSIONS[0]
    yield from ((mindspore, TORCH_VERSIONS[-1]) for mindspore in MINDSPORE_VERSIONS)
    yield from ((MINDSPORE_VERSIONS[-1], torch) for torch in TORCH_VERSIONS[:-1])


def check(mindspore: str, torch: str, cases: int) -> Row:
    """Make an environment for a pair of versions, and return what the check and the tests say in it."""
    row = Row(mindspore, torch)
    with tempfile.TemporaryDirectory() as folder:
        # Resolved together, so that the versions choose the torchvision made for that torch.
        frameworks = (f"mindspore=={mindspore}", "numpy<2", f"torch=={torch}", "torchvision", "numba")
        try:
            python = make_environment(Path(folder, "environment"), *frameworks, "pytest", "hypothesis", extras="[cli]")
        except subprocess.CalledProcessError as error:
            row.problem = f"cannot be installed: {_last_line(error.stderr)}"
            return row
        facts_file = Path(folder, "facts.json")
        run = _run(python, folder, "-m", "ms2torch_roi", "check", "--cases", str(cases), "--json", str(facts_file))
        if run.returncode not in (0, 1):
            row.problem = f"the check cannot run (status {run.returncode}): {_last_line(run.stderr)}"
            return row
        facts = json.loads(facts_file.read_text())
        row.torchvision, row.numpy = (facts["versions"][name].split("+")[0] for name in ("torchvision", "numpy"))
        row.python = _run(python, folder, "-c", "import platform; print(platform.python_version())").stdout.strip()
        total = facts["total"]
        row.cases, row.values, row.differing = total["cases"], total["values"], total["differing"]
        row.failed = total["failed"]
        row.failed_categories = [
            f"{category['direction']}, {category['category']}" for category in facts["categories"] if category["failed"]
        ]
        run = _run(python, ROOT, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)
        row.tests = _last_line(run.stdout).split(" in ")[0]
        if run.returncode:
            row.problem = f"tests: {row.tests}"
    return row


def _run(python: Path, folder: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-I", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1].strip()


def as_markdown(rows: Sequence[Row], date: datetime.date) -> str:
    """Return the table, under a line with the date."""
    named = ", ".join(f"`{file}::{test}`" for file, test in TESTS.items())
    header = ("MindSpore", "torch", "torchvision", "Python", "NumPy", "Cases", "Values", "Differ", "Verdict", "Test")
    lines = [
        f"Measured on {date} by `make matrix`, on a CPU.\n",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
    ]
    for row in rows:
        versions = (row.mindspore, row.torch, row.torchvision, row.python, row.numpy)
        counts = (f"{count:,}" for count in (row.cases, row.values, row.differing))
        verdict = row.verdict.replace("|", "\\|")
        lines.append(f"| {' | '.join((*versions, *counts, verdict))} | {row.tests}: {named} |")
    return "\n".join(lines) + "\n"


def write_evidence(table: str) -> None:
    """Put the table between the two markers in EVIDENCE.md."""
    before, start, rest = EVIDENCE.read_text().partition(START)
    _, end, after = rest.partition(END)
    EVIDENCE.write_text(f"{before}{start}{table}{end}{after}")


def main() -> int:
    """Check all pairs, print the table as it grows, and return 1 if one of them is not identical."""
    parser = argparse.ArgumentParser(description="Check every supported version of both frameworks.")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="random cases for each direction")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same facts for machines")
    parser.add_argument("--write", action="store_true", help="put the table in EVIDENCE.md")
    options = parser.parse_args()
    before, end, _ = EVIDENCE.read_text().partition(END)
    if options.write and not (end and START in before):
        parser.error(f"{EVIDENCE.name} has no lines {START.strip()} and {END} to put the table between")
    date = datetime.datetime.now(datetime.timezone.utc).date()
    rows: list[Row] = []
    for mindspore, torch in version_pairs():
        row = check(mindspore, torch, options.cases)
        rows.append(row)
        print(f"MindSpore {mindspore}, torch {torch}: {row.verdict}", file=sys.stderr, flush=True)
        if options.json:
            facts = {"date": str(date), "rows": [{**asdict(row), "passed": row.passed} for row in rows]}
            options.json.write_text(json.dumps(facts, indent=1) + "\n")
    table = as_markdown(rows, date)
    print(table)
    if options.write:
        write_evidence(table)
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
