"""Make the pictures of the documentation anew, in ``docs/images``: ``make screenshots``.

- ``replay.svg``: what a terminal shows of a run that finds a mistake;
- ``report.png``: the HTML report of the same run, in Chromium;
- ``explain.png``: the plot of a box.

The port with the mistake, and the box, are those of ``docs/own-port.md``. Versions are those installed; the time, the
duration and the platform are fixed, so that a picture changes only if what it shows does.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

from golden import MINDSPORE_VERSIONS, ROOT
from PIL import Image
from rich.console import Console
from rich.text import Text

from ms2torch_roi.parity.campaign import GOLDEN
from ms2torch_roi.parity.report import Origin, Run, facts, html, terminal

IMAGES = ROOT / "docs/images"
GUIDE = (ROOT / "docs/own-port.md").read_text(encoding="utf-8")

# Recorded calls of the package: one on which the port is right, one on which it is wrong, one on which it dies.
CALLS = ("mode-0-float32", "mode-1-float32", "not-finite-float32")
REPLAY = "ms2torch-roi replay calls/ --adapter my_port:roi_align --html report.html"
STARTED, SECONDS = "2026-01-01T00:00:00+00:00", 10.0

# Characters in a line of the terminal, and the width of the report in pixels.
COLUMNS, WIDTH = 100, 1200


def run_with_a_mistake() -> Run:
    """Replay the calls by the port of the guide, and return what came of it."""
    (port,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my_port.py").write_text(port, encoding="utf-8")
        (folder / "calls").mkdir()
        for call in CALLS:
            shutil.copy(GOLDEN / f"mindspore-{MINDSPORE_VERSIONS[-1]}" / f"{call}.npz", folder / "calls")
        _run(f"{REPLAY} --json facts.json", folder, status=1)
        run = facts.read(folder / "facts.json")
    system = f"Python {platform.python_version()} on {platform.system()}"
    verdicts = [replace(verdict, seconds=0.0) for verdict in run.verdicts]
    return replace(run, verdicts=verdicts, origins=[Origin(REPLAY, STARTED, system)], seconds=SECONDS)


def _run(command: str, folder: Path, status: int = 0) -> None:
    """Run a command line of the package in a folder."""
    line = [sys.executable, "-m", "ms2torch_roi", *shlex.split(command)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != status:
        raise RuntimeError(f"{command}: exit status {done.returncode}, not {status}")


def terminal_picture(run: Run) -> str:
    """Return what a terminal shows of a run, as SVG that loads nothing."""
    shown = StringIO()
    console = Console(file=shown, width=COLUMNS, force_terminal=True, color_system="standard")
    terminal.print_headline(run, console)
    terminal.print_origins(run, console)
    terminal.print_run(run, console)
    terminal.print_conclusion(run, console)
    # Once more, as a picture cuts off what a terminal wraps.
    wrapped = Console(file=StringIO(), width=COLUMNS, record=True)
    wrapped.print(f"$ {REPLAY}", markup=False, highlight=False)
    wrapped.print(Text.from_ansi(shown.getvalue()))
    svg = wrapped.export_svg(title="ms2torch-roi replay", unique_id="replay")
    return re.sub(r" *@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)


def report_picture(run: Run) -> bytes:
    """Return the HTML report of a run, a case with its heat map opened, as PNG."""
    from browsers import Browser

    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "report.html"
        page.write_text(html.render(facts.as_json(run)), encoding="utf-8")
        browser = Browser(Path(name) / "profile")
        browser.open(page, f"#case={run.failures[0].number}", width=WIDTH)
        height = browser.run("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        picture = browser.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        browser.close()
    return base64.b64decode(picture)


def plot() -> bytes:
    """Return the plot of the guide's box, as PNG."""
    (command,) = re.findall(r"^\$ (ms2torch-roi explain .* --plot boxes\.png)$", GUIDE, re.MULTILINE)
    with tempfile.TemporaryDirectory() as name:
        _run(command, Path(name))
        return (Path(name) / "boxes.png").read_bytes()


def main() -> int:
    """Write the pictures, and return the exit status."""
    sys.path.insert(0, str(ROOT / "tests/html_report"))
    from browsers import EXECUTABLE

    if EXECUTABLE is None:
        print("screenshots: neither Chromium nor Chrome is installed, which the report is shown in", file=sys.stderr)
        return 2
    IMAGES.mkdir(exist_ok=True)
    run = run_with_a_mistake()
    (IMAGES / "replay.svg").write_text(terminal_picture(run), encoding="utf-8")
    for name, picture in (("report", report_picture(run)), ("explain", plot())):
        few_colours = Image.open(BytesIO(picture)).convert("RGB").quantize()  # a third of the bytes
        few_colours.save(IMAGES / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
