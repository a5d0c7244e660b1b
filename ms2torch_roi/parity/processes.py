"""The processes that share a run, and how all of them end when it is interrupted."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

# A progress bar has hidden the cursor: this wipes its line, and shows the cursor again.
_RESTORED = b"\r\x1b[2K\x1b[?25h"

_given = b""  # pickled, as what it needs is to be imported in a process that is prepared

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


def start(workers: int, shared: Any, calls: Sequence[tuple[Any, ...]]) -> tuple[ProcessPoolExecutor, list[Future[Any]]]:
    """Start processes, and give them calls, each a function and its arguments; return them and what will come of it.

    ``shared`` is what :func:`given` returns in each of them: it goes there once, and not with every call.
    """
    # MindSpore does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with _starting:
        _start_resource_tracker()
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_prepare_worker, initargs=(pickle.dumps(shared),)
        )
        return pool, [pool.submit(*call) for call in calls]


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


@functools.cache
def given() -> Any:
    """Return what all processes were started with, in one of them."""
    return pickle.loads(_given)


def _prepare_worker(shared: bytes) -> None:
    """Keep the processes from competing for the same cores, and leave it to the one that started them to end them."""
    global _given
    _given = shared
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # MindSpore handles Ctrl-C itself once it has compiled
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, which may have had no time for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
