"""A run that is shared has the results of one process, whoever shares it and whatever dies."""

import argparse
import gc
import importlib.metadata
import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ms2torch_roi.commands import arguments
from ms2torch_roi.parity import campaign, processes, sharing, verdicts
from ms2torch_roi.parity.processes import Workers
from ms2torch_roi.parity.verdicts import Verdict


@dataclass(frozen=True)
class Quick:
    """Cases without frameworks, which take long to import; those of some numbers end their process."""

    deadly: tuple[int, ...] = ()

    def verdicts(self, number):
        if number in self.deadly:
            time.sleep(2)  # Dask gives a worker up that dies as soon as it has started
            os._exit(11)
        time.sleep(0.01)
        return [Verdict(f"case {number}", "to-torch", "random", number, values=number)] * (1 + number % 2)

    def only(self, numbers):
        return self

    def lost(self, number):
        return Verdict(f"case {number}", "to-torch", "random", number, problem=verdicts.LOST)


NUMBERS = range(7, 207)
EXPECTED = [Quick().verdicts(number) for number in NUMBERS]
DEADLY = Quick(deadly=(9, 120))
EXPECTED_OF_DEADLY = [
    [DEADLY.lost(number)] if number in DEADLY.deadly else of_case
    for number, of_case in zip(NUMBERS, EXPECTED, strict=True)
]


@pytest.fixture(autouse=True)
def bounded(monkeypatch):
    """End what hangs with an error, which says where it was."""
    monkeypatch.setattr(sharing, "_LONGEST_START", 60)
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def end(*_):
        raise TimeoutError("it takes more than five minutes")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def start_threads():
    return ThreadPoolExecutor(3)


def start_processes():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def run_and_kill(workers, pid_of_a_worker):
    """Run the quick cases, and kill a worker when the first of them is there."""
    found = []
    for of_case in sharing.run(Quick(), NUMBERS, workers):
        found.append(of_case)
        if len(found) == 1:
            os.kill(pid_of_a_worker(), signal.SIGKILL)
    return found


@pytest.mark.parametrize("start", [start_threads, start_processes])
def test_any_executor_gives_the_results_of_one_process(start):
    assert list(sharing.run(Quick(), NUMBERS, Workers(start, at_once=3))) == EXPECTED


def test_threads_give_the_results_of_one_process_on_real_cases():
    check = campaign.Check(random_cases=10, with_mindspore=False, directions=("to-torch",))
    numbers = range(len(check) - 60, len(check))
    shared = sharing.run(check, numbers, Workers(start_threads, at_once=3))
    assert list(shared) == list(sharing.run(check, numbers))


def test_the_cases_of_a_process_that_is_killed_are_run_again():
    assert run_and_kill(processes.workers(2), lambda: multiprocessing.active_children()[0].pid) == EXPECTED


def test_a_case_that_ends_its_process_twice_fails_and_the_others_are_as_they_were():
    assert list(sharing.run(DEADLY, NUMBERS, processes.workers(2))) == EXPECTED_OF_DEADLY


def test_an_executor_that_stays_broken_is_an_error():
    broken = start_processes()
    with pytest.raises(BrokenExecutor):
        list(sharing.run(DEADLY, NUMBERS, Workers(lambda: broken, at_once=2)))


def test_a_lost_case_of_a_check_is_named_and_is_not_run_here():
    check = campaign.Check(random_cases=1, with_mindspore=False)
    for number in (2, len(check) - 1):
        case, verdict = check.case(number), check.lost(number)
        assert (verdict.case, verdict.category, verdict.number) == (case.name, case.category, number)
        assert not verdict.passed
        assert verdict.call == case.call
        assert f"case = {case.source}\n" in verdict.reproduction
        assert check.shrunk(verdict) is verdict
        assert verdicts.cause(verdict) == verdicts.LOST


class Placed(Quick):
    """Cases that say in which folder they run."""

    def verdicts(self, number):
        return [Verdict(str(Path.cwd()), "to-torch", "random", number)]


def test_cases_run_in_the_folder_of_whoever_shares_them(tmp_path, monkeypatch):
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    elsewhere = executor.submit(os.getcwd).result()
    monkeypatch.chdir(tmp_path)
    found = sharing.run(Placed(), NUMBERS, Workers(lambda: executor, at_once=1))
    assert elsewhere != str(tmp_path)
    assert {verdict.case for of_case in found for verdict in of_case} == {str(tmp_path)}


def test_a_worker_is_back_in_its_own_folder_afterwards(tmp_path):
    before = Path.cwd()
    ((verdict,),) = sharing._verdicts_of_all(Placed(), [7], str(tmp_path))
    assert (verdict.case, Path.cwd()) == (str(tmp_path), before)


def test_cases_run_one_at_a_time_in_a_process():
    running = []

    class Alone(Quick):
        def verdicts(self, number):
            running.append(number)
            assert running == [number]
            found = super().verdicts(number)
            running.remove(number)
            return found

    assert list(sharing.run(Alone(), NUMBERS, Workers(start_threads, at_once=3))) == EXPECTED


def test_an_interrupt_leaves_the_executor_without_work():
    executor = start_threads()
    shared = sharing.run(Quick(), NUMBERS, Workers(lambda: executor, at_once=3))
    next(shared)
    shared.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    import dask

    # Otherwise four workers die of each call that is deadly.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
    ):
        yield cluster


@pytest.fixture
def on_dask(cluster):
    from ms2torch_roi.parity import cluster as of_package

    workers = of_package.workers(cluster.scheduler_address)
    yield workers
    workers.end()


def test_a_worker_of_dask_that_is_killed_costs_no_result(cluster, on_dask):
    assert run_and_kill(on_dask, lambda: next(iter(cluster.workers.values())).pid) == EXPECTED


def test_a_case_that_ends_workers_of_dask_fails_and_the_others_are_as_they_were(on_dask):
    assert list(sharing.run(DEADLY, NUMBERS, on_dask)) == EXPECTED_OF_DEADLY


def test_workers_of_dask_with_other_versions_are_refused(cluster, monkeypatch):
    from ms2torch_roi.parity import cluster as of_package

    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "torch" else version(name))
    with pytest.raises(ValueError, match=r"the worker tcp://.* has torch 2.*, and this process has 1\.0"):
        of_package.workers(cluster.scheduler_address)


def test_check_on_dask_has_the_facts_of_one_process(cluster, tmp_path):
    from ms2torch_roi.cli import main

    found = []
    for options in ([], ["--dask", cluster.scheduler_address]):
        report = tmp_path / f"{len(found)}.json"
        assert main(["check", "--without-mindspore", "--cases", "5", "--json", str(report), *options]) == 0
        facts = json.loads(report.read_text())
        found.append([{**case, "seconds": 0} for case in facts["cases"]])
        assert all(case["seconds"] > 0 for case in facts["cases"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dask", "tcp://127.0.0.1:1"], "--dask: Timed out trying to connect to tcp://127.0.0.1:1"),
        (["--dask", "nowhere:x"], "--dask: 'nowhere:x' is no address such as tcp://host:8786: "),
        (["--dask", "nowhere"], "--dask: 'nowhere' is no address such as tcp://host:8786: missing port"),
        (["--dask", "http://127.0.0.1:1"], "--dask: 'http://127.0.0.1:1' is no address such as tcp://host:8786: "),
        (
            ["--dask", "tcp://127.0.0.1:1", "--workers", "2"],
            "--workers starts processes here: it does not go with --dask",
        ),
        (["--dask", "tcp://127.0.0.1:1", "--adapter", "math:dist"], "math:dist has the parameters"),
    ],
)
def test_what_dask_cannot_do_is_said_in_a_line(capsys, monkeypatch, options, message):
    pytest.importorskip("distributed")
    from ms2torch_roi.cli import main
    from ms2torch_roi.parity import cluster

    monkeypatch.setattr(cluster, "_TIMEOUT", 0.5)
    assert main(["check", "--without-mindspore", "--cases", "1", *options]) == 2
    gc.collect()  # a client that was half made would complain now
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("options", "cases"), [(["--workers", "2"], 1), (["--workers", "2"], 0), (["--workers", "9"], 3)]
)
def test_processes_run_a_single_case_too_if_they_are_asked_for(options, cases):
    parser = argparse.ArgumentParser()
    arguments.add_run_options(parser)
    workers = arguments.workers_of(parser.parse_args(options), cases)
    assert workers.at_once == max(cases, 1)
    pids = [workers.start().submit(os.getpid).result(60) for _ in range(min(cases, 1))]
    assert os.getpid() not in pids
    assert arguments.workers_of(parser.parse_args([]), cases) is None


@pytest.mark.parametrize("options", [("--workers", "2"), ("--dask", "tcp://127.0.0.1:1")])
def test_a_working_directory_that_is_gone_is_said_in_a_line(tmp_path, monkeypatch, capsys, options):
    from ms2torch_roi.cli import main

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["check", "--without-mindspore", "--cases", "1", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{options[0]}: the working directory is gone: No such file or directory" in line
