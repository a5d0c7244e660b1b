"""`ms2torch-roi import` makes recorded calls of what people have saved, and says what is missing in it."""

import subprocess
import sys

import numpy as np
import pytest

from ms2torch_roi import reference
from ms2torch_roi.parity import operators, remote
from ms2torch_roi.parity.recording import calls

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((2, 3, 16, 20)).astype(np.float32)
CORNERS = RNG.uniform(0, 40, (20, 2))
ROIS = np.hstack((RNG.integers(0, 2, (20, 1)), CORNERS, CORNERS + RNG.uniform(1, 40, (20, 2)))).astype(np.float32)
CALL = ("--pooled", 3, 2, "--scale", "1/4")


@pytest.fixture
def dump(tmp_path, monkeypatch):
    """Save what a call of MindSpore gave, by names of a user's own."""
    monkeypatch.chdir(tmp_path)

    def dump(name="dump.npz", **changes):
        arrays = {"f": FEATURES, "r": ROIS, "o": reference.ms_roi_align(FEATURES, ROIS, 3, 2, 0.25), **changes}
        np.savez(tmp_path / name, **{key: array for key, array in arrays.items() if array is not None})
        return name

    return dump


NAMES = ("--features", "f", "--rois", "r", "--output", "o")


@pytest.mark.needs_mindspore
def test_a_call_of_mindspore_that_a_user_saved_replays_to_the_same_bits(run_command, dump, tmp_path, ms):
    output = ms.ops.ROIAlign(3, 2, 0.25, 2, 0)(ms.Tensor(FEATURES), ms.Tensor(ROIS)).asnumpy()
    options = ("--samples", 2, "--mode", 0, "--framework-version", "2.x", "--to", "calls")
    result = run_command("import", dump(o=output), *NAMES, *CALL, *options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "1 recorded call in calls\n", "")
    result = run_command("replay", "calls")
    assert result.returncode == 0
    assert "IDENTICAL: 1 case," in result.stdout
    assert calls.read(tmp_path / "calls" / "dump.npz").versions == {"mindspore": "2.x"}
    assert "1 recorded calls of MindSpore 2.x on CPU" in run_command("identify", "calls").stdout


def test_a_wrong_output_differs_and_is_explained(run_command, dump):
    aligned = reference.tv_roi_align(FEATURES, ROIS, (3, 2), 0.25, 2, aligned=True)
    assert run_command("import", dump(o=aligned), *NAMES, *CALL, "--to", "calls").returncode == 0
    result = run_command("replay", "calls")
    assert result.returncode == 1
    assert "DIFFERENT: 1 of 1 case failed" in result.stdout
    assert "aligned=True" in result.stdout


def test_noise_that_leaves_a_devices_rule_leaves_the_mistake_of_a_port_too(run_command, dump):
    """aligned=True without the +1 is what a device computes, and what MindSpore's documentation suggests."""
    inside = ROIS.clip(0, 50) + np.float32([0, 4, 4, 8, 8])
    aligned = reference.tv_roi_align(FEATURES, inside, (3, 2), 0.25, 2, aligned=True)
    noise = RNG.uniform(-1e-4, 1e-4, aligned.shape).astype(np.float32)
    assert run_command("import", dump(r=inside, o=aligned + noise), *NAMES, *CALL, "--to", "calls").returncode == 0
    explanation = " ".join(run_command("replay", "calls").stdout.split())
    assert "MindSpore's values are those of Ascend" in explanation
    assert "MindSpore's values are closest to roi_end_mode=1 computed with aligned=True" in explanation
    assert "None of the known rules fits" not in explanation


@pytest.mark.needs_mindspore
def test_a_call_of_torchvision_has_its_own_arguments_and_gradients(run_command, dump, tmp_path):
    output = reference.tv_roi_align(FEATURES, ROIS, (3, 2), 0.25, 2, aligned=True)
    dump("call.npz", o=output)
    call = ("--output-size", 3, 2, "--scale", 0.25, "--sampling-ratio", 2, "--aligned")
    assert run_command("import", "call.npz", *NAMES, *call, "--to", "one.npz").returncode == 0
    case = calls.read(tmp_path / "one.npz").case
    gradient = operators.original_gradient(case, output)
    dump("call.npz", o=output, features_gradient=gradient)
    gradients = ("--output-gradient", "o", "--features-gradient", "features_gradient")
    assert run_command("import", "call.npz", *NAMES, *gradients, *call, "--to", "calls").returncode == 0
    result = run_command("replay", "one.npz", "calls")
    assert result.returncode == 0
    assert "IDENTICAL: 3 cases" in result.stdout


def test_arrays_may_be_in_files_of_their_own_and_files_of_many_calls(run_command, dump, tmp_path):
    with np.load(dump()) as saved:
        for name in saved.files:
            np.save(tmp_path / f"{name}.npy", saved[name])
    files = ("--features", "f.npy", "--rois", "r.npy", "--output", "o.npy")
    assert run_command("import", *files, *CALL, "--to", "calls").returncode == 0
    dump("2.npz", r=None)
    dump("3.npz", r=None)
    result = run_command("import", "2.npz", "3.npz", *NAMES[:2], "--rois", "r.npy", *NAMES[4:], *CALL, "--to", "calls")
    assert (result.returncode, result.stdout) == (0, "2 recorded calls in calls\n")
    assert sorted(path.name for path in (tmp_path / "calls").iterdir()) == ["2.npz", "3.npz", "o.npz"]
    first, *others = [calls.read(path) for path in (tmp_path / "calls").iterdir()]
    assert all(call.output.tobytes() == first.output.tobytes() for call in others)


GRAPH = """
import json, os, sys
import numpy as np
folder = os.getcwd()
common = {"op_debug_mode": 0, "dump_mode": 1, "path": folder + "/dumped", "net_name": "net", "iteration": "all",
          "saved_data": "tensor", "input_output": 0, "kernels": ["ROIAlign"], "support_device": [0],
          "file_format": "npy"}
with open("dump.json", "w") as file:
    json.dump({"common_dump_settings": common, "e2e_dump_settings": {"enable": True, "trans_flag": True}}, file)
os.environ["MINDSPORE_DUMP_CONFIG"] = folder + "/dump.json"
import mindspore as ms
ms.set_context(mode=ms.GRAPH_MODE)
class Head(ms.nn.Cell):
    def __init__(self):
        super().__init__()
        self.first, self.second = ms.ops.ROIAlign(3, 2, 0.25), ms.ops.ROIAlign(3, 2, 0.25, 2, 0)
    def construct(self, features, rois):
        return self.first(features * 2, rois) + self.second(features, rois)
head = Head()
with np.load("dump.npz") as saved:
    for scale in (1, 3):
        head(ms.Tensor(saved["f"] * np.float32(scale)), ms.Tensor(saved["r"]))
"""


@pytest.mark.needs_mindspore
def test_what_mindspore_dumps_in_graph_mode_replays_to_the_same_bits(run_command, dump, tmp_path):
    dump()
    (tmp_path / "graph.py").write_text(GRAPH)
    result = subprocess.run([sys.executable, "graph.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    outputs = sorted((tmp_path / "dumped").rglob("*.output.0.*.npy"))
    assert len(outputs) == 4
    for output in outputs:
        kind, operator, *_ = output.name.split(".")
        (features,) = output.parent.glob(f"{kind}.{operator}.*.input.0.*.npy")
        is_first = np.load(features)[0, 0, 0, 0] / FEATURES[0, 0, 0, 0] in (2, 6)
        assert run_command("import", output, *CALL, "--mode", int(is_first), "--to", "calls").returncode == 0
    result = run_command("replay", "calls")
    assert "IDENTICAL: 4 cases" in result.stdout
    inputs = sorted((tmp_path / "dumped").rglob("*.input.1.*.npy"))
    assert "is no output that MindSpore has dumped" in run_command("import", inputs[0], *CALL, "--to", "calls").stderr
    inputs[0].unlink()
    result = run_command("import", *outputs, *CALL, "--to", "more")
    assert "beside it there are 1 of input.0, 0 of input.1, 1 of output.0" in result.stderr


def dump_by_mindspore(folder, *, kinds=("input.0", "input.1", "output.0")):
    """Write a call as MindSpore dumps it, and return the output's file."""
    arrays = {"input.0": FEATURES, "input.1": ROIS, "output.0": reference.ms_roi_align(FEATURES, ROIS, 3, 2, 0.25)}
    folder.mkdir()
    for number, kind in enumerate(kinds):
        output = folder / f"ROIAlign.Default_ROIAlign-op0.0.0.{number}.{kind}.DefaultFormat.Float32.npy"
        np.save(output, arrays[kind])
    return output


def test_files_that_are_given_go_before_those_of_a_dump_and_add_to_them(run_command, tmp_path):
    whole, bare = dump_by_mindspore(tmp_path / "whole"), dump_by_mindspore(tmp_path / "bare", kinds=["output.0"])
    given = {"features": FEATURES * 2, "rois": ROIS * 2, "output": np.load(whole) * 2}
    given |= {"output_gradient": np.load(whole) * 3, "features_gradient": FEATURES * 3}
    options = []
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
        options += [f"--{name.replace('_', '-')}", tmp_path / f"{name}.npy"]
    for dumped, more, to in (
        (whole, options, "all.npz"),
        (whole, options[6:], "gradients.npz"),
        (bare, options[:4], "in.npz"),
    ):
        assert run_command("import", dumped, *CALL, *more, "--to", tmp_path / to).returncode == 0
    of_all, gradients, inputs = (calls.read(tmp_path / f"{name}.npz") for name in ("all", "gradients", "in"))
    for name in given:
        found = getattr(of_all.case if name in ("features", "rois") else of_all, name)
        assert found.tobytes() == given[name].tobytes(), name
    assert gradients.case.features.tobytes() == FEATURES.tobytes()
    assert gradients.features_gradient.tobytes() == given["features_gradient"].tobytes()
    assert inputs.case.rois.tobytes() == given["rois"].tobytes()
    assert inputs.output.tobytes() == np.load(whole).tobytes()
    for wrong in (("--features", "f"), ("--output-gradient", "output_gradient")):
        line = run_command("import", whole, *CALL, *wrong, "--to", tmp_path / "wrong.npz").stderr
        assert f"a dump has no names: give a .npy file, not {wrong[1]}" in line


def test_a_dump_that_is_not_there_is_named(run_command, tmp_path):
    output = dump_by_mindspore(tmp_path / "whole")
    missing = output.with_name(output.name.replace(".2.output", ".9.output"))
    for file in (missing, tmp_path / "nowhere" / output.name):
        assert f"No such file or directory: '{file}'" in run_command("import", file, *CALL, "--to", "calls").stderr


def test_no_other_array_is_read_than_those_that_are_asked_for(run_command, dump, monkeypatch):
    read = []
    array = np.lib.format.read_array
    monkeypatch.setattr(np.lib.format, "read_array", lambda *given, **more: read.append(0) or array(*given, **more))
    dump(more=np.array([{}], object), **{f"more{number}": FEATURES for number in range(5)})
    assert run_command("import", "dump.npz", *NAMES, *CALL, "--to", "calls").returncode == 0
    assert len(read) == 3


def test_calls_go_to_a_url(run_command, dump, tmp_path):
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    url = f"memory://{tmp_path.name}/import"
    result = run_command("import", dump(), *NAMES, *CALL, "--to", url)
    assert (result.returncode, result.stdout) == (0, f"1 recorded call in {url}\n")
    assert calls.read(remote.path(f"{url}/dump.npz")).case.features.tobytes() == FEATURES.tobytes()
    (tmp_path / "rank1").mkdir()
    result = run_command("import", dump("rank1/dump.npz"), *NAMES, *CALL, "--to", url)
    assert f"rank1/dump.npz: {url}/dump.npz is there already: give another --to" in result.stderr


def test_a_device_or_version_that_would_not_be_read_is_not_written(run_command, dump, tmp_path):
    for option, text in (("--device", "a\nb"), ("--framework-version", "2\x1b")):
        result = run_command("import", dump(), *NAMES, *CALL, option, text, "--to", "calls")
        assert f"must be printable, got {text!r}" in result.stderr
    assert not (tmp_path / "calls").exists()


def test_what_an_operator_computed_twice_in_a_step_is_told_apart_by_the_times(run_command, tmp_path):
    folder, operator = tmp_path / "0", "ROIAlign.Default_ROIAlign-op0.0.0"
    folder.mkdir()
    for run, features in enumerate((FEATURES, FEATURES * 2)):
        output = reference.ms_roi_align(features, ROIS, 3, 2, 0.25)
        for kind, array in (("input.0", features), ("input.1", ROIS), ("output.0", output)):
            time = 99 + run * 10 + (kind == "output.0")  # of 2 digits and of 3
            np.save(folder / f"{operator}.{time}.{kind}.DefaultFormat.Float32.npy", array)
    np.save(folder / "ROIAlign.Default_ROIAlign-op1.0.0.98.input.0.DefaultFormat.Float32.npy", FEATURES)
    assert run_command("import", *folder.glob("*.output.*"), *CALL, "--to", tmp_path / "calls").returncode == 0
    made = {path.name.split(".")[4]: calls.read(path) for path in (tmp_path / "calls").iterdir()}
    for time, factor in (("100", 1), ("110", 2)):
        assert made[time].case.features.tobytes() == (FEATURES * np.float32(factor)).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dump.npz", *CALL], "dump.npz: there is no features and no rois and no output in it, but f, r, o"),
        (["dump.npz", *NAMES, "--features", "x", *CALL], "dump.npz: there is no x in it, but f, r, o"),
        (["dump.npz", *NAMES, "--pooled", 3, 3, "--scale", 1],
         "dump.npz: output has shape (20, 3, 3, 2), but this call has (20, 3, 3, 3)"),
        (["dump.npz", *NAMES, "--rois", "f", *CALL], "dump.npz: rois must have shape (K, 5)"),
        (["double.npz", *NAMES, *CALL], "double.npz: rois must be a tensor of torch or MindSpore or a NumPy array, of"
                                        " float16 or float32, got ndarray of float64"),
        (["dump.npz", *NAMES, *CALL, "--output-gradient", "o"], "give output_gradient and features_gradient"),
        (["dump.npz", *NAMES, *CALL, "--aligned"], "--aligned goes with --output-size, not with --pooled"),
        (["dump.npz", *NAMES, *CALL, "--mode", 2], "roi_end_mode must be 0 or 1, got 2"),
        (["dump.npz", *NAMES, "--scale", 1], "one of the arguments --pooled --output-size is required"),
        (["dump.npz", *NAMES, *CALL[:3]], "the following arguments are required: --scale"),
        (["nowhere.npz", *NAMES, *CALL], "No such file or directory: 'nowhere.npz'"),
        (["text.npz", *NAMES, *CALL], "text.npz: ValueError: "),
        (["object.npz", *NAMES, *CALL], "object.npz: o: ValueError: Object arrays cannot be loaded"),
        (["one.npy", *NAMES, *CALL], "one.npy: it is no output that MindSpore has dumped (ROIAlign.*.output.0.*.npy)"),
        (["array.npz", *NAMES, *CALL], "array.npz: it is one array; give .npy files by --features, --rois and"),
        (["dump.npz", *NAMES, *CALL, "--rois", "zip.npy"], "zip.npy: it holds several arrays: give it as FILE"),
        ([*NAMES, *CALL], "give a .npz file that has f, r, o in it, or .npy files for them"),
        ([".", *NAMES, *CALL], ".: ValueError: it is a folder, not a file"),
        (["dump.npz", "double.npz", *NAMES, *CALL, "--to", "new.npz"], "--to: new.npz is one file, for 2 calls"),
        (["dump.npz", *NAMES, *CALL, "--to", "."], "dump.npz is there already"),
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused_in_one_line(run_command, dump, tmp_path, arguments, message):
    content = (tmp_path / dump()).read_bytes()
    dump("double.npz", r=ROIS.astype(float))
    dump("object.npz", o=np.array([{}], object))
    (tmp_path / "text.npz").write_text("no arrays")
    np.save(tmp_path / "one.npy", FEATURES)
    (tmp_path / "array.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    (tmp_path / "zip.npy").write_bytes(content)
    result = run_command("import", "--to", "calls", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "calls").exists()
    assert (tmp_path / "dump.npz").read_bytes() == content


def test_the_calls_beside_one_that_is_refused_are_made(run_command, dump, tmp_path):
    dump("right.npz")
    dump("wrong.npz", o=None)
    dump("other.npz", r=None)
    result = run_command("import", "wrong.npz", "right.npz", "other.npz", *NAMES, *CALL, "--to", "calls")
    assert result.returncode == 2
    assert result.stdout == "1 recorded call in calls\n"
    (line,) = result.stderr.splitlines()
    assert "wrong.npz: there is no o in it, but f, r; other.npz: there is no r in it, but f, o" in line
    assert [path.name for path in (tmp_path / "calls").iterdir()] == ["right.npz"]
