"""The cases of a campaign, run here or shared among workers: whatever dies, all results come, and in order."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace
from typing import Any

from . import processes
from .campaign import Campaign
from .processes import Workers
from .verdicts import Verdict

# Cases that a worker is handed at a time, at most.
_CHUNK = 20

# Parts that are handed out for each worker, one to work on and one to go on with.
_PARTS = 2

# Seconds in which a process must be there in the place of one that has died.
_LONGEST_START = 300

# Frameworks have settings of the process, such as how many threads they use: in a process, one case runs at a time.
_running = threading.Lock()

Found = dict[int, list[Verdict]]


def run(campaign: Campaign, numbers: Sequence[int], workers: Workers | None = None) -> Iterator[list[Verdict]]:
    """Run the cases of these numbers, and yield what comes of them in their order.

    The results are those of one process, whatever executor runs them. Where one of its processes dies, the cases that
    it may have run are run again, one by one; one that ends its process then too, twice, is a failed case
    (``Campaign.lost``).

    Args:
        campaign: the cases.
        numbers: of the cases to run.
        workers: who runs them; None for this process.

    Raises:
        BrokenExecutor, TimeoutError: no process can be started.
    """
    if workers is None:
        for number in numbers:
            yield _timed_verdicts(campaign, number)
        return
    found: Found = {}
    due = deque(numbers)
    for some in _in_any_order(campaign, numbers, workers):
        found |= some
        while due and due[0] in found:
            yield found.pop(due.popleft())


def _in_any_order(campaign: Campaign, numbers: Sequence[int], workers: Workers) -> Iterator[Found]:
    # Small parts for few cases, so that all have some to do.
    length = max(1, min(_CHUNK, len(numbers) // (4 * workers.at_once)))
    parts = deque(numbers[first : first + length] for first in range(0, len(numbers), length))
    under_way: dict[Future[Any], Sequence[int]] = {}
    executor = workers.start()
    try:
        while parts or under_way:
            suspects: list[int] = []
            while under_way or (parts and not suspects):
                # Nothing more is handed out after a loss: what was under way is what may have caused it.
                while parts and not suspects and len(under_way) < _PARTS * workers.at_once:
                    try:
                        future = _submit(executor, campaign, parts[0])
                    except workers.lost:
                        if not under_way:
                            raise
                        break  # which is what those under way will say
                    under_way[future] = parts.popleft()
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    part = under_way.pop(future)
                    found = _found(future, part, workers)
                    suspects += [] if found else part
                    yield found
            if suspects:
                executor = _started_again(executor, workers)
            for number in suspects:
                for _ in range(2):  # a busy cluster may take a worker for dead
                    if found := _found(_submit(executor, campaign, [number]), [number], workers):
                        break
                    executor = _started_again(executor, workers)
                yield found or {number: [campaign.lost(number)]}
    except BaseException:  # an interrupt, or the reader has left: nobody waits for the cases under way
        for future in under_way:
            future.cancel()
        workers.end()
        raise
    finally:
        executor.shutdown(wait=False)


def _submit(executor: Executor, campaign: Campaign, part: Sequence[int]) -> Future[Any]:
    return processes.submit(executor, _verdicts_of_all, campaign.only(part), part, os.getcwd())  # noqa: PTH109


def _found(future: Future[Any], part: Sequence[int], workers: Workers) -> Found:
    """Return what has come of the cases of a part, nothing if their process has died."""
    try:
        return dict(zip(part, future.result(), strict=True))
    except workers.lost:
        return {}


def _started_again(executor: Executor, workers: Workers) -> Executor:
    """Return an executor in the place of one that has lost a process: it may be broken, the other one works.

    Raises:
        Exception: what the futures of lost processes raise, if it does not.
        TimeoutError: there is no process for minutes.
    """
    executor.shutdown(wait=False)
    executor = workers.start()
    processes.submit(executor, os.getpid).result(_LONGEST_START)
    return executor


def _verdicts_of_all(campaign: Campaign, numbers: Sequence[int], folder: str) -> list[list[Verdict]]:
    """Run some cases in a folder: that of whoever shares them, by which files and modules are named."""
    with _running:
        before = os.getcwd()  # noqa: PTH109
        os.chdir(folder)
        try:
            return [_timed_verdicts(campaign, number) for number in numbers]
        finally:
            os.chdir(before)


def _timed_verdicts(campaign: Campaign, number: int) -> list[Verdict]:
    """Run one case, and share the time that it took among its verdicts, of which one needs what another computed."""
    started = time.perf_counter()
    found = campaign.verdicts(number)
    seconds = (time.perf_counter() - started) / len(found)
    return [replace(verdict, seconds=round(seconds, 6)) for verdict in found]
