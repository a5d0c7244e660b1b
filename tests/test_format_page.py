"""FORMAT.md describes the files of recorded calls as they are: who follows it, writes what is read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import run_python

from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign, cases, edges, operators
from ms2torch_roi.parity.recording import calls

PAGE = (Path(__file__).parent.parent / "FORMAT.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("archive", [False, True])
def test_what_numpy_alone_writes_after_the_page_replays_to_the_same_bits(tmp_path, monkeypatch, capsys, archive):
    (tmp_path / "calls").mkdir()
    monkeypatch.chdir(tmp_path / "calls")
    alone = "import sys\nassert not {'ms2torch_roi', 'torch', 'mindspore'} & {*sys.modules}"
    result = run_python("\n".join([*EXAMPLES, alone]))
    assert result.returncode == 0, result.stderr
    path = tmp_path / "calls"
    if archive:
        path = tmp_path / "calls.zip"
        monkeypatch.chdir(tmp_path)
        assert run_python("import shutil; shutil.make_archive('calls', 'zip', 'calls')").returncode == 0
    assert main(["replay", str(path)]) == 0
    assert "IDENTICAL: 2 cases, 24 values compared, 0 differ" in capsys.readouterr().out
    first, second = (calls.read(file) for file in campaign.recorded_files([path])[0])
    assert first.case.features.tobytes() == second.case.features.tobytes()


def fields(heading):
    """What the table that begins with this heading lists."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", PAGE, re.MULTILINE)
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_the_page_lists_what_files_hold(tmp_path):
    case, path = cases.random_case(0, 3), tmp_path / "call.npz"
    output = operators.reference(case)
    whole = calls.Call(case=case, output=output, output_gradient=output, features_gradient=case.features)
    raised = calls.Call(case=edges.edge_case("index 2 of 2 images, float32"), output=None, error_message="index")
    arrays, in_text, formats = {}, {}, set()
    for call, elsewhere in ((whole, None), (whole, calls.FeaturesElsewhere("1.npz", "")), (raised, None)):
        calls.write(path, call, elsewhere)
        with np.load(path) as file:
            facts = json.loads(str(file["call"]))
            arrays |= dict.fromkeys(file.files)
            in_text |= facts
            formats.add(facts["format"])
        for name in facts["arguments"]:
            assert f"`{name}`" in PAGE
    assert {*fields("Array")} == {*arrays} == {*calls._MEMBERS}
    assert {*fields("Field")} == {*in_text}
    assert formats == {*calls.FORMATS} == {int(version) for version in re.findall(r"^- (\d)[ :]", PAGE, re.MULTILINE)}
    for name in calls._DTYPES_OF_ERRORS:
        assert name in PAGE


def test_fields_and_arrays_that_are_not_known_are_left_out_of_account(tmp_path):
    case, path = cases.random_case(0, 3), tmp_path / "call.npz"
    calls.write(path, calls.Call(case=case, output=operators.reference(case)))
    with np.load(path) as file:
        contents = dict(file)
    facts = {**json.loads(str(contents["call"])), "layer": "roi_head"}
    np.savez(path, **{**contents, "call": np.array(json.dumps(facts)), "scores": np.zeros(3)})
    assert calls.read(path).output.tobytes() == operators.reference(case).tobytes()
