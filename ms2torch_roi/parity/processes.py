"""The processes that share a run, or other workers, and how all of them end when it is interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any, NamedTuple

# A progress bar has hidden the cursor: this wipes its line, and shows the cursor again.
_RESTORED = b"\r\x1b[2K\x1b[?25h"

# Held while processes are started: one that is half started, and left, complains.
_starting = threading.Lock()


def end_when_interrupted(command: str, status: int) -> None:
    """End this process, and those that it has started, when it is interrupted: with one line, and a status.

    A thread of its own waits for the signals, and all others block them: Python runs its handlers between two of its
    instructions only, what they raise may be lost in a framework that catches everything, and MindSpore puts its own in
    their place whenever it compiles.

    This is for the process of a command, before it has other threads. Where signals cannot be waited for (Windows),
    Ctrl-C stays a KeyboardInterrupt.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    # What is ignored already, as nohup has it, stays so.
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signals = {number for number in wanted if signal.getsignal(number) != signal.SIG_IGN}

    def again(number: int, _: object) -> None:  # multiprocessing has unblocked it
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        os.kill(os.getpid(), number)

    for number in signals:
        signal.signal(number, again)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def end() -> None:
        signal.sigwait(signals)
        with _starting:
            end_workers()
            if sys.stdout is not None and sys.stdout.isatty():
                os.write(sys.stdout.fileno(), _RESTORED)
            os.write(2, f"{command}: interrupted\n".encode())
            os._exit(status)

    threading.Thread(target=end, daemon=True).start()


def end_workers() -> None:
    """End the processes that this one has started, whatever they do."""
    for process in multiprocessing.active_children():
        process.kill()


class Workers(NamedTuple):
    """Who shares a run.

    Attributes:
        start: makes an executor; also in the place of one that has lost a process.
        at_once: how many calls it works on at a time.
        lost: what its futures raise where the process that ran them has died.
        end: ends all at once, whatever they do.
    """

    start: Callable[[], Executor]
    at_once: int
    lost: tuple[type[Exception], ...] = (BrokenExecutor,)
    end: Callable[[], None] = lambda: None


def workers(count: int) -> Workers:
    """Return so many processes of this machine."""

    def start() -> Executor:
        with _starting:
            _start_resource_tracker()
        # MindSpore does not survive a fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count, mp_context=context, initializer=_prepare_worker)

    return Workers(start, count, end=end_workers)


def submit(executor: Executor, *call: Any) -> Future[Any]:
    """Give an executor a function and its arguments, for which it may start a process."""
    with _starting:
        return executor.submit(*call)


def _start_resource_tracker() -> None:
    """Start the process of multiprocessing that removes what processes leave when they are ended.

    It tells of what it removes, which is no news after an interrupt; and what starts it unblocks signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    from multiprocessing import resource_tracker

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    filters = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = f"{filters},{quiet}" if filters else quiet
    resource_tracker.ensure_running()
    if filters is None:
        del os.environ["PYTHONWARNINGS"]
    else:
        os.environ["PYTHONWARNINGS"] = filters
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _prepare_worker() -> None:
    """Keep the processes from competing for the same cores, and leave it to the one that started them to end them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # MindSpore handles Ctrl-C itself once it has compiled
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT})
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, which may have had no time for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
