"""Tasks on threads that start with a call and end with it: no state to outlive a fork, or for two callers to share."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence


def run(tasks: Iterable[Callable[[], None]], threads: int) -> None:
    """Do the tasks, first come first served, in this thread and as many others as make up ``threads``.

    Where no other can be started, as when the interpreter shuts down or the system has none left, this thread does
    them all. It returns, or raises, when every thread has ended.

    Raises:
        BaseException: the first that a task raised, in whatever thread, or an interrupt of this one; no task is
            started after it.
    """
    todo = collections.deque(tasks)
    errors: list[BaseException] = []

    def work() -> None:
        while todo:
            try:
                task = todo.popleft()
            except IndexError:  # another thread was faster
                return
            task()

    def work_for_another() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            todo.clear()

    others = [threading.Thread(target=work_for_another) for _ in range(min(threads, len(todo)) - 1)]
    try:
        with contextlib.suppress(RuntimeError):  # of the first that cannot be started
            for other in others:
                other.start()
        work()
    finally:
        todo.clear()
        _join(others)
    if errors:
        raise errors.pop(0)  # which would hold itself otherwise, by its traceback


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for the end of those that were started, also if an interrupt arrives meanwhile; a second one ends it."""
    try:
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join()
    except BaseException:
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join()
        raise
