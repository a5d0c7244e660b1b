"""The benchmark, on calls too small to say anything about speed: what it prints and writes, and what it refuses."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import contenders
import memory
import numpy as np
import plot
import pytest
import speed
import torch
from cases import CASES, Case
from test_docs import ROOT

TINY = {"rois": 5, "channels": 3, "strides": (16,)}
TINY_CASES = (
    Case("stride-16", **TINY, dtypes=("float32", "float16"), one_thread=True),
    Case("rois-2", **{**TINY, "rois": 2}, backward=False),
    Case("mode-1-small", **TINY, mode=1, below_one_cell=0.5),
    Case("adaptive", **TINY, samples=0, sizes=(112, 600), backward=False),
    Case("fpn", **{**TINY, "rois": 12, "strides": (8, 16)}, mindspore=False),
    Case("masks", **{**TINY, "strides": (1,)}, images=4, pooled=28, samples=0, sizes=(29, 90), backward=False),
    Case("busy", **TINY, busy=True, backward=False),
    Case("way-back", **TINY, way_back=True),
    Case("seldom", **{**TINY, "rois": 2}, backward=False, by_default=False),
)


@pytest.fixture(autouse=True)
def tiny_and_fast(monkeypatch):
    monkeypatch.setattr(speed, "CASES", TINY_CASES)
    monkeypatch.setattr(speed, "SHORTEST_SECONDS", 0)


@pytest.fixture(autouse=True)
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def run(tmp_path, *arguments):
    path = tmp_path / "benchmark.json"
    speed.main(["--pairs", "2", "--json", str(path), *arguments])
    return json.loads(path.read_text())


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def installed(package):
    return importlib.util.find_spec(package) is not None


def test_every_contender_of_every_case_is_in_the_table_and_the_json(tmp_path, capsys):
    report = run(tmp_path)
    header, _, *rows = rows_of(capsys.readouterr().out)
    assert header == [*speed.COLUMNS]
    found = [tuple(record[key] for key in ("dtype", "pass", "contender")) for record in report["records"]]
    assert [tuple(row[1:4]) for row in rows] == found
    names = {record["case"]["name"] for record in report["records"]}
    of_default = {case.name for case in TINY_CASES if case.by_default}
    assert names == (of_default if installed("mindspore") else of_default - {"way-back"})
    forward = ["torchvision", "ours", "ours, one thread"]
    forward += ["MindSpore"] if installed("mindspore") else []
    backward = [*forward]
    of_float32 = [*forward, "ONNX Runtime"] if installed("onnxruntime") else forward
    of_first_case = [tuple(row[1:4]) for row in rows if row[0] == "stride-16"]
    assert of_first_case == [
        *(("float32", "forward", name) for name in of_float32),
        *(("float32", "forward + backward", name) for name in backward),
        *(("float16", "forward", name) for name in forward),
        *(("float16", "forward + backward", name) for name in backward),
    ]


def test_mindspore_is_timed_where_that_takes_little_or_is_asked_for(tmp_path):
    records = run(tmp_path, "--case", "fpn", "--case", "rois-2")["records"]
    names = {record["case"]["name"] for record in records if record["contender"] == "MindSpore"}
    assert names == ({"rois-2"} if installed("mindspore") else set())


def test_all_are_timed_if_asked_for_and_any_by_its_name(tmp_path, monkeypatch):
    def names(*arguments):
        return {record["case"]["name"] for record in run(tmp_path, "--dtype", "float32", *arguments)["records"]}

    monkeypatch.setattr(speed, "CASES", [case for case in TINY_CASES if case.name in ("rois-2", "seldom")])
    assert names() == {"rois-2"}
    assert names("--all") == {"rois-2", "seldom"}
    assert names("--case", "seldom") == {"seldom"}


def test_ours_on_one_thread_takes_one(monkeypatch):
    threads = []

    def note():
        threads.append(torch.get_num_threads())

    monkeypatch.setattr(contenders, "ours", lambda *of: contenders.Contender("ours", note, note))
    own = contenders._ours_on_one_thread(TINY_CASES[0], [])
    own.forward()
    own.backward()
    assert threads == [1, 1]
    assert torch.get_num_threads() == 2


def test_ratios_are_those_of_the_times_of_one_round(tmp_path):
    records = run(tmp_path, "--case", "stride-16")["records"]
    bare, own = records[:2]
    assert (bare["contender"], own["contender"]) == ("torchvision", "ours")
    assert bare["ratio"] == {"median": 1, "min": 1, "max": 1}
    ratios = np.divide(own["seconds"], bare["seconds"])
    assert own["ratio"] == pytest.approx({"median": np.median(ratios), "min": ratios.min(), "max": ratios.max()})
    assert own["milliseconds"] == pytest.approx(1e3 * np.median(own["seconds"]))
    over = 1e6 * np.median(np.subtract(own["seconds"], bare["seconds"]))
    assert own["microseconds_over_bare"] == pytest.approx(over)
    assert {len(record["seconds"]) for record in records} == {2}


def test_every_round_times_each_call_once_in_alternating_order():
    log = []
    times = speed.time_rounds({name: lambda name=name: log.append(name) for name in "abc"}, 2)
    assert "".join(log) == "abc" + "aabbcc" + "ccbbaa"  # the first are to see how long each takes, then one warms up
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_short_calls_are_repeated(monkeypatch):
    monkeypatch.setattr(speed, "SHORTEST_SECONDS", 0.01)
    log = []
    (seconds,) = speed.time_rounds({"a": lambda: log.append("a")}, 1)["a"]
    assert len(log) > 100
    assert seconds < 0.001


def test_rounds_end_when_their_time_is_over_but_there_are_three(monkeypatch):
    monkeypatch.setattr(speed, "_rest", lambda: None)
    assert len(speed.time_rounds({"a": lambda: None}, 7, seconds=-1)["a"]) == 3
    assert len(speed.time_rounds({"a": lambda: None}, 2, seconds=-1)["a"]) == 2
    assert len(speed.time_rounds({"a": lambda: None}, 7, seconds=100)["a"]) == 7


def test_what_takes_long_is_not_warmed_up(monkeypatch):
    monkeypatch.setattr(speed, "LONGEST_WARM_UP", 0)
    log = []
    speed.time_rounds({name: lambda name=name: log.append(name) for name in "ab"}, 1)
    assert "".join(log) == "ab" + "ab"


def test_other_processes_keep_all_cores_busy_while_a_busy_case_is_timed(tmp_path, monkeypatch):
    started, running, popen, time_rounds = [], [], subprocess.Popen, speed.time_rounds

    def start(command, **options):
        process = popen(command, **options)
        if speed.SPINNING in command:
            started.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(
        speed, "time_rounds", lambda *of: running.append([p.poll() is None for p in started]) or time_rounds(*of)
    )
    run(tmp_path, "--case", "busy", "--case", "rois-2")
    cores = speed.machine()["cores"]
    assert running == [[True] * cores, [False] * cores]


def test_processes_that_keep_cores_busy_end_with_the_one_that_started_them_however_that_ends():
    code = "import os, speed\nwith speed.busy_cores():\n    print('busy', flush=True)\n    os._exit(1)"
    path = os.pathsep.join(sys.path)
    # They have this pipe too: it is at its end when all of them are gone.
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.stdout == b"busy\n"


def test_the_table_says_how_closely_outputs_agree(tmp_path):
    records = run(tmp_path)["records"]
    words = {
        (record["case"]["name"], record["pass"], record["contender"]): record["against_ours"]
        for record in records
        if record["dtype"] == "float32"
    }
    for direction in ("forward", "forward + backward"):
        assert words["stride-16", direction, "torchvision"] == "same bits"
        assert words["stride-16", direction, "ours, one thread"] == "same bits"
    assert words["mode-1-small", "forward", "torchvision"] == "same bits"
    assert words["mode-1-small", "forward + backward", "torchvision"] == "other samples"
    assert words["adaptive", "forward", "torchvision"] == "other samples"
    if installed("mindspore"):
        assert words["stride-16", "forward + backward", "MindSpore"] == "within 1e-05"
        assert words["adaptive", "forward", "MindSpore"] == "same bits"
        assert words["way-back", "forward", "MindSpore"] == words["way-back", "forward", "torchvision"] == "same bits"
        assert words["way-back", "forward + backward", "torchvision"] == "same bits"
        assert words["way-back", "forward + backward", "MindSpore"] == "other samples"


def test_the_json_names_the_machine_but_not_its_owner(tmp_path, capsys):
    report = run(tmp_path, "--case", "rois-2", "--threads", str(torch.get_num_threads()))
    assert {*report["machine"]} == {"cpu", "architecture", "cores"}
    assert {"python", "torch", "torchvision", "ms2torch_roi", "numpy"} <= {*report["versions"]}
    assert report["threads"] == torch.get_num_threads()
    assert str(tmp_path) not in json.dumps(report)
    assert f"torch {torch.__version__.split('+')[0]}" in capsys.readouterr().out


def wrong(build, backward=False):
    """Return a builder of a contender whose first value is wrong."""

    def build_wrong(case, levels):
        right = build(case, levels)

        def call():
            first, *others = [array.clone() for array in (right.backward() if backward else right.forward())]
            first[(0,) * first.ndim] += 1
            return [first, *others]

        return right._replace(**{"backward" if backward else "forward": call})

    return build_wrong


@pytest.mark.parametrize("builder", ["_torchvision", "_ours_on_one_thread"])
@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_output_is_refused_before_it_is_timed(tmp_path, monkeypatch, capsys, builder, backward):
    monkeypatch.setattr(contenders, builder, wrong(getattr(contenders, builder), backward))
    timed = []
    time_rounds = speed.time_rounds
    monkeypatch.setattr(speed, "time_rounds", lambda *of: timed.append(of) or time_rounds(*of))
    name = {"_torchvision": "torchvision", "_ours_on_one_thread": "ours, one thread"}[builder]
    direction = r"forward \+ backward" if backward else "forward"
    with pytest.raises(SystemExit, match=rf"^stride-16, float32, {direction}: {name} differs from ours, in 1 of"):
        run(tmp_path, "--case", "stride-16")
    assert len(timed) == int(backward)  # that is, the forward pass, where that is right
    assert "| stride-16" not in capsys.readouterr().out


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("case", ["stride-16", "way-back"])
def test_a_wrong_output_of_mindspore_is_refused(tmp_path, monkeypatch, case):
    build = contenders._of_mindspore

    def build_wrong(ms, name, *arguments):
        right = build(ms, name, *arguments)
        return right._replace(forward=lambda: [array + 1 for array in right.forward()])

    monkeypatch.setattr(contenders, "_of_mindspore", lambda *of: (build_wrong if of[1] == "MindSpore" else build)(*of))
    with pytest.raises(SystemExit, match=f"^{case}, float32, forward: MindSpore differs from ours, in 735 of 735"):
        run(tmp_path, "--case", case)


def test_nan_and_another_shape_are_differences():
    one = np.ones((2, 2), np.float32)
    assert speed._difference(one, one, 0.1) is None
    assert speed._difference(one + np.float32(0.2), one, 0.1) == "by up to 0.2, where 0.1 is allowed"
    assert "nan" in speed._difference(np.where(np.eye(2), np.nan, one), one, 0.1)
    assert speed._difference(one[:1], one, 0.1) == "its shape is (1, 2) instead of (2, 2)"


@pytest.mark.parametrize(
    ("package", "contender", "line"),
    [
        ("mindspore", "MindSpore", "MindSpore is not installed. Install the extra"),
        ("onnxruntime", "ONNX Runtime", "onnxruntime is not installed"),
    ],
)
def test_what_is_not_installed_is_left_out_with_a_line(tmp_path, monkeypatch, capsys, package, contender, line):
    if package == "onnxruntime":
        pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, package, None)
    report = run(tmp_path, "--case", "rois-2", "--case", "way-back")
    names = {record["contender"] for record in report["records"]}
    assert {"torchvision", "ours"} <= names
    assert contender not in names
    cases = {record["case"]["name"] for record in report["records"]}
    assert cases == ({"rois-2", "way-back"} if installed("mindspore") else {"rois-2"})
    assert len([reason for reason in report["left_out"] if reason.startswith(line)]) == 1
    assert f"\nleft out: {line}" in capsys.readouterr().out


@pytest.mark.skipif(not os.access(memory.RESET, os.W_OK), reason="no /proc/self/clear_refs")
@pytest.mark.parametrize("held", [0, 1, 3])
def test_memory_beyond_the_output_is_measured(held):
    def call():
        others = [torch.ones(2**23) for _ in range(held)]
        output = torch.ones(2**23)
        del others
        return [output]

    assert memory.extra_memory(call) == pytest.approx(held, abs=0.1)


def test_memory_is_not_measured_where_it_would_be_noise():
    assert memory.extra_memory(lambda: [torch.ones(10)]) is None


def test_boxes_of_a_pyramid_go_to_the_level_of_their_size():
    (case,) = (case for case in CASES if case.name == "fpn")
    levels = case.levels("float32")
    assert [tuple(level.features.shape[2:]) for level in levels] == [(200, 304), (100, 152), (50, 76), (25, 38)]
    assert sum(len(level.rois) for level in levels) == case.rois
    for level in levels[1:-1]:
        cells = (level.rois[:, 3:] - level.rois[:, 1:3]).prod(1).sqrt() / level.stride
        assert len(cells) > 20
        assert ((cells >= 13.99) & (cells <= 28.01)).all()


def test_plot_draws_all_numbers_of_rois_of_one_kind_of_call(tmp_path):
    report = run(tmp_path, "--case", "rois-2", "--case", "stride-16", "--case", "adaptive")
    points = plot.series(report)
    assert [count for count, _ in points["ours"]] == [2, 5]
    of_five = next(record for record in report["records"] if record["case"]["name"] == "stride-16")
    assert points["torchvision"][1] == (5, of_five["milliseconds"])
    assert {*points} == {record["contender"] for record in report["records"]}
    output = tmp_path / "plot.png"
    plot.main([str(tmp_path / "benchmark.json"), "--output", str(output)])
    assert output.read_bytes().startswith(b"\x89PNG")
    assert f"torch {torch.__version__.split('+')[0]}" in plot.caption(report)


def test_readme_describes_every_case():
    text, figures, _ = (ROOT / "benchmarks" / "README.md").read_text().partition("## Figures")
    assert figures
    described = [
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall("`(.*?)`", row)
    ]
    assert sorted(described) == sorted(case.name for case in CASES)
