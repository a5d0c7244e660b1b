"""The reports for other projects: their programs print what the pages say, on the frameworks as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ms2torch_roi.parity import operators

REPORTS = Path(__file__).parent.parent / "reports"
PAGES = sorted(path for path in REPORTS.glob("*.md") if path.name != "README.md")


def test_the_index_has_every_report():
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (REPORTS / "README.md").read_text())
    assert sorted(linked) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_program_prints_what_the_page_says(page, tmp_path):
    text = page.read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    # Those who read it have no other package than the frameworks.
    imported = {*re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)}
    assert imported <= {"mindspore", "numpy", "torch", "torchvision", "math", "subprocess", "sys"}
    if "mindspore" in imported and "mindspore" not in operators.versions():
        pytest.skip("MindSpore is not installed")
    script = tmp_path / "program.py"
    script.write_text(program)
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    seen_with = re.search(r"\*\*Seen with:\*\*.*?\n\n", text, re.DOTALL)[0]
    framework = "torchvision" if "mindspore" not in imported else "mindspore"
    if result.stdout != printed and operators.versions()[framework] not in seen_with:
        pytest.skip(f"{framework} {operators.versions()[framework]} prints {result.stdout!r}")
    assert result.stdout == printed
