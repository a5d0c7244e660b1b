"""The format of recorded calls: what is written is read again, and what is not whole is refused by name."""

import dataclasses
import io
import json
import re
import tracemalloc
import zipfile

import numpy as np
import pytest

import ms2torch_roi
from ms2torch_roi.parity import cases, edges, operators
from ms2torch_roi.parity.recording import calls


def a_call(case=None, **changes):
    case = case or cases.random_case(0, 3)
    known = {
        "output": None if case.raises else operators.reference(case),
        "versions": {"mindspore": "2.10.0", "numpy": np.__version__},
    }
    return calls.Call(case=case, **{**known, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls" / "000001.npz"


@pytest.fixture(autouse=True)
def folder(path):
    path.parent.mkdir()


@pytest.mark.parametrize("make", [cases.random_case, cases.random_torchvision_case])
@pytest.mark.parametrize("number", range(5))
def test_what_is_written_is_read_again(path, make, number):
    case = make(1, number)
    gradients = {"output_gradient": operators.reference(case) * 2, "features_gradient": case.features * 3}
    calls.write(path, a_call(case, **gradients, device="GPU"))
    read = calls.read(path)
    assert type(read.case) is type(case)
    assert read.case.arguments == case.arguments
    assert read.case.name == "calls/000001.npz"
    assert read.case.category.startswith("recorded: ")
    assert " on GPU, " in read.case.category
    pairs = {
        "features": (read.case.features, case.features),
        "rois": (read.case.rois, case.rois),
        "output": (read.result, operators.reference(case)),
        "output_gradient": (read.output_gradient, gradients["output_gradient"]),
        "features_gradient": (read.features_gradient, gradients["features_gradient"]),
    }
    for name, (actual, expected) in pairs.items():
        assert actual.dtype == expected.dtype, name
        assert actual.tobytes() == np.ascontiguousarray(expected).tobytes(), name


def test_numpy_alone_can_read_it_without_pickle(path):
    case = cases.documented_cases()[1]
    calls.write(path, a_call(case))
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"call", "features", "rois", "output"}
        facts = json.loads(str(file["call"]))
    assert facts["format"] == 1
    assert facts["operator"] == "mindspore.ops.ROIAlign"
    assert facts["arguments"] == case.arguments
    assert facts["device"] == "CPU"


def test_a_call_that_raised_is_one_that_must_raise(path):
    case = edges.edge_case("index 2 of 2 images, float32")
    calls.write(path, a_call(case, error_message="index out of range"))
    read = calls.read(path)
    assert read.case.raises is RuntimeError
    assert isinstance(read.result, RuntimeError)
    assert str(read.result) == "index out of range"


def test_a_file_that_ends_early_is_refused_wherever_it_ends(path):
    calls.write(path, a_call())
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 251), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"000001\.npz: not a recorded call: "):
            calls.read(path)


def test_a_changed_value_is_noticed(path):
    call = a_call()
    calls.write(path, call)
    whole = path.read_bytes()
    at = whole.index(np.ascontiguousarray(call.output).tobytes()[:32])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="Bad CRC-32"):
        calls.read(path)


def _without(name):
    def change(contents):
        del contents[name]

    return change


def _facts(**changes):
    def change(contents):
        contents["call"] = np.array(json.dumps({**json.loads(str(contents["call"])), **changes}))

    return change


def _array(name, array):
    return lambda contents: contents.__setitem__(name, array)


FOREIGN = {
    "no call": (_without("call"), "there is no 'call' in it, but features, output, rois"),
    "an unknown error": (_facts(error={"type": "SystemExit", "message": ""}), "it ended in 'SystemExit', which is not"),
    "a newer format": (_facts(format=3), f"its format is 3; ms2torch_roi {ms2torch_roi.__version__} reads 1 and 2"),
    "another operator": (_facts(operator="numpy.add"), "its operator is 'numpy.add', not one of mindspore"),
    "no arguments": (_facts(arguments=None), "its versions or arguments are missing"),
    "one gradient": (
        lambda contents: contents.__setitem__("features_gradient", contents["features"]),
        "of the gradients, there is only features_gradient: it must have both, or neither",
    ),
    "the other gradient": (
        lambda contents: contents.__setitem__("output_gradient", contents["output"]),
        "of the gradients, there is only output_gradient: it must have both, or neither",
    ),
    "an argument too many": (_facts(arguments={"pooled_height": 1, "kernel": 3}), "unexpected keyword argument"),
    "a bad argument": (
        _facts(arguments={"pooled_height": 0, "pooled_width": 1, "spatial_scale": 1.0, "sample_num": 2,
                          "roi_end_mode": 1}),
        "pooled height and width must be at least 1, got 0 and 1",
    ),
    "no features": (_without("features"), "there are no features in it"),
    "no output": (_without("output"), "there is no output in it"),
    "features of 3 dimensions": (_array("features", np.zeros((1, 2, 3), "f4")), "features must have 4 dimensions"),
    "an output of other rois": (_array("output", np.zeros((1, 1, 1, 1), "f4")), r"output has shape \(1, 1, 1, 1\)"),
    "integers": (_array("rois", np.zeros((3, 5), int)), "rois is int64, not one of float16, float32, float64"),
    "a gradient of another shape": (_array("features_gradient", np.zeros(3, "f4")), r"is float32 \(3,\), not"),
    "a gradient of another dtype": (
        _array("output_gradient", operators.reference(cases.random_case(0, 3)).astype("f8")),
        "output_gradient is float64 .*, not float16",
    ),
    "numbers of another byte order": (
        lambda contents: contents.update(rois=contents["rois"].astype(contents["rois"].dtype.newbyteorder(">"))),
        "rois is >f",
    ),
    "an object": (_array("rois", np.array([{}], object)), "rois is object"),
    "an output of other bins": (
        lambda contents: contents.update(output=contents["output"][..., :-1]), r"output has shape .* and 5 x 3 bins"
    ),
    "absurdly many bins": (
        _facts(arguments={"pooled_height": 23_000, "pooled_width": 23_000, "spatial_scale": 1.0, "sample_num": 1,
                          "roi_end_mode": 1}),
        "23000 x 23000 bins of 1 x 1 samples would take about .* GiB",
    ),
    "absurdly many bins of torchvision": (
        _facts(operator="torchvision.ops.roi_align", arguments={"output_size": [23_000, 1], "spatial_scale": 1.0,
               "sampling_ratio": 1, "aligned": False}),
        r"output has shape .* and 23000 x 1 bins",
    ),
    "numbers for a call": (_array("call", np.zeros(3)), r"its 'call' is float64 \(3,\), not a text"),
    "a text beyond reason": (_facts(error={"type": "RuntimeError", "message": "x" * 2**20}), "not a text of 4194304"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_recorded_call_is_refused(path, change, message):
    calls.write(path, a_call())
    with np.load(path) as file:
        contents = dict(file)
    change(contents)
    np.savez(path, **contents)
    with pytest.raises(ValueError, match=message):
        calls.read(path)


def test_an_array_alone_is_no_recorded_call(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"not a recorded call: BadZipFile: File is not a zip file"):
        calls.read(path)


def test_an_output_of_an_operator_that_mindspore_took_for_another_is_read(path):
    # Its cache tells 1 x 12 bins from 11 x 2 by "112".
    case = dataclasses.replace(cases.documented_cases()[0], pooled_height=11, pooled_width=2)
    other = dataclasses.replace(case, pooled_height=1, pooled_width=12)
    calls.write(path, a_call(case, output=operators.reference(other)))
    assert calls.read(path).output.shape == (1, 1, 1, 12)


# What a file says of its size is believed only as far as the file itself is large.


def large_contents(height, width=4096):
    case = dataclasses.replace(cases.documented_cases()[0], features=np.zeros((1, 1, height, width), np.float32))
    facts = {"format": 1, "operator": "mindspore.ops.ROIAlign", "arguments": case.arguments, "versions": {}}
    arrays = {"features": case.features, "rois": case.rois, "output": np.zeros((1, 1, 3, 3), np.float32)}
    return {"call": np.array(json.dumps(facts)), **arrays}


def refused_without_memory(path, match):
    tracemalloc.start()
    with pytest.raises(ValueError, match=match):
        calls.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24  # bytes; what the files would take is 2**27 and more


def rewrite(path, change, compress_type):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compress_type) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_compressed_files_are_read(path):
    contents = large_contents(2**11)  # 32 MiB
    np.savez_compressed(path, **contents)
    assert calls.read(path).case.features.shape == (1, 1, 2**11, 4096)
    contents = large_contents(2**13)
    contents["features"][:, :, ::8] = np.random.default_rng(0).standard_normal((2**10, 4096))  # as after ReLU, and more
    np.savez_compressed(path, **contents)
    assert calls.read(path).case.features.shape == (1, 1, 2**13, 4096)


def test_a_file_that_unpacks_to_far_more_than_it_holds_is_refused(path):
    np.savez_compressed(path, **large_contents(2**13))
    refused_without_memory(path, r"its \d+ bytes would unpack to 1342\d+, more than 20 times as many")
    whole = path.read_bytes()
    at = whole.index(b"features.npy", whole.index(b"PK\1\2")) - 46
    # That it holds as much, or unpacks to less, makes no difference.
    for offset, size, match in ((20, 2**27, "more than 20 times"), (24, 2**20, "features is float32 .* but there are")):
        changed = whole[: at + offset] + size.to_bytes(4, "little") + whole[at + offset + 4 :]
        path.write_bytes(changed)
        refused_without_memory(path, match)


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20, 2**20, 2**20), (-2, -2), (-1,), (0,), (3,)])
@pytest.mark.parametrize("compress_type", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_says_another_size_is_refused(path, shape, compress_type):
    def change(members):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        members["rois.npy"] = header.getvalue() + bytes(16)

    np.savez(path, **large_contents(4))
    rewrite(path, change, compress_type)
    refused_without_memory(path, "rois is float32 .* but there are 16 bytes of it")


def test_a_compression_that_numpy_does_not_write_is_refused(path):
    for compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        np.savez(path, **large_contents(4))
        rewrite(path, lambda members: None, compress_type)
        refused_without_memory(path, "call is compressed in a way that NumPy does not write")


def test_a_file_that_cannot_be_opened_is_an_os_error(path):
    with pytest.raises(FileNotFoundError):
        calls.read(path)


def test_a_write_that_fails_leaves_nothing(path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        calls.write(path, a_call())
    assert list(path.parent.iterdir()) == []


def test_writing_leaves_no_partial_file_and_replaces_what_was_there(path):
    calls.write(path, a_call())
    calls.write(path, a_call(cases.random_case(0, 4)))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert calls.read(path).case.features.shape == cases.random_case(0, 4).features.shape


@pytest.mark.parametrize("name", ["folder.npz", "nowhere/1.npz", "x" * 300 + ".npz"])
def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match=re.escape(f"{str(tmp_path / name)!r}") + "$"):
        calls.write(tmp_path / name, a_call())
    assert not list(tmp_path.rglob("*.partial"))
