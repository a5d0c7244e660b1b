"""Ctrl-C and SIGTERM end the command in one way, in any phase: one line, status 2, and nothing is left behind."""

import itertools
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not list processes")

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


class OnTerminal:
    """The command on a terminal of its own, as the leader of its processes."""

    def __init__(self, *arguments):
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            # A shell that runs pytest in the background makes its children ignore Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            command = [sys.executable, "-m", "ms2torch_roi", *map(str, arguments)]
            os.execve(sys.executable, command, {**os.environ, "TERM": "xterm"})
        self.output = b""

    def read_until(self, wanted=None, seconds=100.0):
        """Read what it prints until it has printed something, or the seconds are over, or it ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and (wanted is None or wanted not in self.output):
            if not select.select([self._terminal], [], [], 0.05)[0]:
                continue
            try:
                self.output += os.read(self._terminal, 2**16)
            except OSError:  # it has ended
                return

    def interrupt(self, how):
        if how == "Ctrl-C":  # the terminal sends it to all processes
            os.write(self._terminal, b"\x03")
        else:
            os.kill(self.pid, how)

    def processes(self):
        return processes_of(self.pid)

    def wait(self):
        self.read_until(seconds=60)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)


def processes_of(session):
    """Return those processes of a session that live."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session, *_ = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(process.name))
    return found


def ended(command):
    """Tell whether all processes of a command end within seconds."""
    until = time.monotonic() + 10
    while processes_of(command.pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes_of(command.pid)


WITHOUT_MINDSPORE = itertools.product(
    [["--without-mindspore"]],
    [1, 2],
    ["importing", "starting to compare", "comparing"],
    ["Ctrl-C", signal.SIGTERM],
)
WITH_MINDSPORE = [([], 1, "importing", "Ctrl-C"), ([], 1, "comparing", "Ctrl-C"), ([], 2, "comparing", signal.SIGTERM)]


@pytest.mark.parametrize(
    ("frameworks", "workers", "phase", "how"),
    [*WITHOUT_MINDSPORE, *(pytest.param(*run, marks=pytest.mark.needs_mindspore) for run in WITH_MINDSPORE)],
)
def test_an_interrupt_ends_all_and_restores_the_terminal(tmp_path, frameworks, workers, phase, how):
    report = tmp_path / "facts.json"
    report.write_text("of an earlier run")
    run = OnTerminal("check", *frameworks, "--cases", "99999", "--workers", workers, "--json", report)
    if phase == "importing":
        run.read_until(seconds=1.5)
    else:
        run.read_until(b"comparing" if phase == "starting to compare" else b"/s, 0 failed")
    run.interrupt(how)
    interrupted = time.monotonic()
    assert run.wait() == 2
    assert time.monotonic() - interrupted < 10
    last = run.output.splitlines()[-1]
    assert last.endswith(b"ms2torch-roi check: interrupted")
    assert run.output.count(b"interrupted") == 1
    assert b"Traceback" not in run.output
    assert run.output.rfind(SHOW_CURSOR) >= run.output.rfind(HIDE_CURSOR)
    assert ended(run)
    assert not report.exists()


def test_no_worker_outlives_a_command_that_is_killed():
    run = OnTerminal("check", "--without-mindspore", "--cases", "99999", "--workers", "2")
    run.read_until(b"/s, 0 failed")
    assert len(run.processes()) > 2
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert ended(run)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_adapter_outlives_a_command_that_is_interrupted(tmp_path, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hangs.py").write_text(
        "import pathlib, time\n"
        "def port(features, rois, pooled_height, pooled_width, spatial_scale, sample_num, roi_end_mode):\n"
        "    pathlib.Path('called').touch()\n"
        "    time.sleep(1000)\n"
    )
    arguments = (
        "check",
        "--without-mindspore",
        "--workers",
        str(workers),
        "--adapter",
        "hangs:port",
        "--timeout",
        "900",
    )
    # Without a terminal, whose end would end them all.
    run = subprocess.Popen([sys.executable, "-m", "ms2torch_roi", *arguments], start_new_session=True)
    until = time.monotonic() + 100
    while not (tmp_path / "called").exists() and time.monotonic() < until:
        time.sleep(0.2)
    assert len(processes_of(run.pid)) > workers
    run.terminate()
    try:
        assert run.wait(60) == 2
        assert ended(run)
    finally:
        for process in processes_of(run.pid):
            os.kill(process, signal.SIGKILL)


def test_a_signal_that_is_ignored_stays_ignored():
    # As a shell has it for commands in the background, and nohup.
    code = (
        "import os, signal, sys, time\nfrom ms2torch_roi.parity import processes\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprocesses.end_when_interrupted('', 2)\n"
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.5)\nsys.exit(7)"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 7
