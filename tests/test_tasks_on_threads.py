"""Tasks on the threads of one call: all done, errors raised, no thread left, whoever calls."""

import threading
import time

import pytest
from helpers import run_python

from ms2torch_roi.threads import run


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_every_task_is_done_once_on_so_many_threads_at_most(threads, count):
    done, on = [], set()

    def task(number):
        on.add(threading.get_ident())
        time.sleep(1e-4)
        done.append(number)

    before = threading.active_count()
    run([lambda number=number: task(number) for number in range(count)], threads)
    assert sorted(done) == list(range(count))
    assert len(on) <= max(threads, 1)
    assert threading.active_count() == before
    if threads > 1 and count == 200:
        assert len(on) > 1
        assert threading.get_ident() in on


def test_tasks_wait_for_each_other_only_if_there_are_threads_for_them():
    together = threading.Barrier(3, timeout=60)
    run([together.wait] * 3, 3)


@pytest.mark.parametrize("kind", [ValueError, MemoryError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("failing", ["this thread", "another"])
def test_an_error_of_any_thread_is_raised_by_the_call_and_ends_the_others(kind, failing):
    here, done, both_run = threading.get_ident(), [], threading.Barrier(2, timeout=60)

    def first():
        both_run.wait()
        if (threading.get_ident() == here) == (failing == "this thread"):
            raise kind("the task")

    def later():
        time.sleep(1e-3)
        done.append(None)

    before = threading.active_count()
    with pytest.raises(kind, match="the task"):
        run([first, first, *[later] * 1000], 2)
    assert len(done) < 500
    assert threading.active_count() == before


def test_after_an_error_the_task_in_flight_is_waited_for():
    done, both_run = [], threading.Barrier(2, timeout=60)

    def fail():
        both_run.wait()
        raise ValueError("one of two")

    def last():
        both_run.wait()
        time.sleep(0.1)
        done.append(None)

    with pytest.raises(ValueError, match="one of two"):
        run([fail, last], 2)
    assert done == [None]


@pytest.mark.parametrize("started", [0, 1, 2])
def test_this_thread_does_what_threads_that_cannot_be_started_would(monkeypatch, started):
    start, starts, done, on = threading.Thread.start, [], [], set()

    def start_some(thread):
        starts.append(thread)
        if len(starts) > started:
            raise RuntimeError("can't start new thread")
        start(thread)

    def task():
        on.add(threading.get_ident())
        time.sleep(1e-3)
        done.append(None)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    run([task] * 50, 5)
    assert len(done) == 50
    assert len(on) == started + 1
    assert len(starts) == started + 1  # the next ones are not tried


def test_many_callers_at_once():
    done = [[] for _ in range(20)]
    callers = [
        threading.Thread(target=run, args=([lambda own=own: own.append(threading.get_ident())] * 100, 3))
        for own in done
    ]
    before = threading.active_count()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [len(own) for own in done] == [100] * 20
    assert threading.active_count() == before


def test_tasks_may_have_tasks():
    done = []
    run([lambda: run([lambda: done.append(None)] * 5, 2)] * 5, 2)
    assert len(done) == 25


def test_an_interrupt_ends_the_call_once_the_tasks_in_flight_have():
    code = """
import _thread, signal, threading, time
from ms2torch_roi.threads import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell makes children in the background ignore
done, other_is_at_work = [], threading.Event()


def task():
    if threading.current_thread() is threading.main_thread():
        other_is_at_work.wait(60)
    else:
        other_is_at_work.set()
        {when}
        _thread.interrupt_main()
        time.sleep(0.3)
    done.append(None)


try:
    run([task] * {count}, 2)
except KeyboardInterrupt:
    print("interrupted", len(done) < {count} or {count} == 2, threading.active_count())
"""
    # While this thread is at a task of its own, and while it waits for the other.
    for count, when in ((10**7, "pass"), (2, "time.sleep(0.2)")):
        done = run_python(code.format(count=count, when=when))
        assert done.stdout.strip() == "interrupted True 1", done.stderr


def test_a_process_that_is_forked_after_a_call():
    code = """
import os, time
from ms2torch_roi.threads import run


def sums():
    done = []
    run([lambda: (time.sleep(1e-3), done.append(1))] * 50, 3)
    return sum(done)


sums()
child = os.fork()
if not child:
    os._exit(0 if sums() == 50 else 1)
print(os.waitpid(child, 0)[1], sums())
"""
    assert run_python(code).stdout.strip() == "0 50"
