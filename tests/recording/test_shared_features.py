"""Features that several calls have are on disk once, and no call is ever read with others."""

import json
import shutil
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from recordings import ROIS, read
from torchvision.ops import MultiScaleRoIAlign, roi_align

from ms2torch_roi.cli import main
from ms2torch_roi.parity import campaign
from ms2torch_roi.parity.recording import calls, record

RNG = np.random.default_rng(0)
FEATURES = torch.from_numpy(RNG.standard_normal((2, 16, 32, 40)).astype(np.float32))  # 160 KiB


def two_heads(features=FEATURES):
    return [roi_align(features, ROIS, size, 0.25, 2) for size in (2, 3)]


def names(path):
    with np.load(path) as file:
        return {*file.files}, json.loads(str(file["call"]))


@pytest.fixture
def recorded(tmp_path):
    """The files of two calls of the same features."""
    with record(tmp_path / "calls") as recording:
        two_heads()
    return recording.paths


def test_the_features_of_two_heads_are_written_once_and_read_twice(recorded):
    first, second = recorded
    assert "features" in names(first)[0]
    arrays, facts = names(second)
    assert arrays == {"call", "rois", "output"}
    assert facts["features"]["file"] == first.name
    assert second.stat().st_size < FEATURES.nbytes / 8 < first.stat().st_size
    for path, output in zip(recorded, two_heads(), strict=True):
        call = calls.read(path)
        assert_same_bits(call.case.features, FEATURES.numpy())
        assert_same_bits(call.output, output.numpy())


def test_the_levels_of_a_pyramid_are_written_once_for_all_heads(tmp_path):
    levels = OrderedDict((str(level), FEATURES[:, :, : 32 >> level, : 40 >> level] + level) for level in range(2))
    boxes = [torch.tensor([[4.0, 4, 20, 24], [2, 2, 126, 120]])] * 2
    heads = [MultiScaleRoIAlign([*levels], size, 2, canonical_scale=64) for size in (7, 14)]
    with record(tmp_path) as recording:
        for head in heads:
            head(levels, boxes, [(128, 160)] * 2)
    has_features = ["features" in names(path)[0] for path in recording.paths]
    assert has_features == [True, True, False, False]


@pytest.mark.needs_mindspore
def test_they_replay_from_a_folder_an_archive_and_put_together_with_others(recorded, tmp_path, capsys):
    with record(tmp_path / "others"):
        two_heads(FEATURES + 1)
    together = shutil.copytree(tmp_path / "calls", tmp_path / "together")
    shutil.copytree(tmp_path / "others", together, dirs_exist_ok=True)
    archive = tmp_path / "calls.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in recorded:
            file.write(path, path.name)
    for path, count in ((together, 4), (archive, 2), (recorded[1], 1)):
        assert main(["replay", str(path)]) == 0
        assert f"IDENTICAL: {count} case" in capsys.readouterr().out


def test_a_gradient_that_arrives_leaves_them_where_they_are(tmp_path):
    features = FEATURES.clone().requires_grad_()
    with record(tmp_path, gradients=True) as recording:
        outputs = two_heads(features)
        for output in reversed(outputs):
            output.sum().backward()
    first, second = recording.paths
    assert "features" in names(first)[0]
    assert "features" not in names(second)[0]
    of_calls = [call.features_gradient for call in read(recording)]
    assert_same_bits(of_calls[0] + of_calls[1], features.grad.numpy())


def test_other_features_and_small_ones_are_in_each_file(tmp_path):
    changed = FEATURES.clone()
    changed[-1, -1, -1, -1] += 1
    with record(tmp_path) as recording:
        for features in (FEATURES, changed, FEATURES.reshape(2, 16, 40, 32)):
            two_heads(features)
        for _ in range(2):
            roi_align(FEATURES[:, :1, :8, :8], ROIS, 2)
    has_features = ["features" in names(path)[0] for path in recording.paths]
    assert has_features == [True, False] * 3 + [True] * 2


def test_channels_and_limits_are_those_of_what_is_written(tmp_path):
    with record(tmp_path / "some", channels=8) as some, record(tmp_path / "all") as whole:
        two_heads()
    size = sum(path.stat().st_size for path in whole.paths)
    with record(tmp_path / "limited", max_bytes=size + 8192) as limited:
        two_heads()
    assert len(limited.paths) == 2
    assert calls.read(some.paths[1]).case.features.shape[1] == 8
    assert "features" not in names(some.paths[1])[0]


def test_if_the_file_is_moved_away_while_recording_they_are_written_again(tmp_path):
    with record(tmp_path / "calls") as recording:
        two_heads()
        shutil.move(recording.paths[0], tmp_path)
        two_heads()
    assert "features" in names(recording.paths[2])[0]
    assert names(recording.paths[3])[1]["features"]["file"] == recording.paths[2].name
    with pytest.raises(
        ValueError, match=rf"{recording.paths[1].name}: not a .*: its features are in {recording.paths[0].name}: F"
    ):
        calls.read(recording.paths[1])


def test_a_changed_file_does_not_lend_its_features(recorded, tmp_path, capsys):
    first, second = recorded
    call = calls.read(first)
    call.case.features[0, 0, 0, 0] += 1
    calls.write(first, call)
    with pytest.raises(ValueError, match=f"{second.name}: not a recorded call: .* no longer those in {first.name}"):
        calls.read(second)
    first.unlink()
    assert main(["replay", str(tmp_path / "calls")]) == 2
    assert f"its features are in {first.name}: FileNotFoundError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("elsewhere", "message"),
    [
        ({"file": "../{first}"}, "its features are in '../.*', which is no name of a recorded call beside it"),
        ({"file": "/etc/passwd"}, "which is no name of a recorded call beside it"),
        ({"file": "notes.txt"}, "which is no name of a recorded call beside it"),
        ({}, "its features are in None, which is no name"),
        ([], "its features are in None, which is no name"),
        ({"file": "{second}", "sha256": ""}, "there is no 'features' in it, but call, output, rois"),
        ({"file": "{first}"}, "its features are no longer those in"),
    ],
)
def test_a_text_that_leads_elsewhere_is_refused(recorded, elsewhere, message):
    first, second = recorded
    with np.load(second) as file:
        contents = dict(file)
    if elsewhere:
        elsewhere = {**elsewhere, "file": elsewhere["file"].format(first=first.name, second=second.name)}
    facts = {**json.loads(str(contents["call"])), "features": elsewhere}
    np.savez(second, **{**contents, "call": np.array(json.dumps(facts))})
    with pytest.raises(ValueError, match=message):
        calls.read(second)
    assert len(campaign.recorded_files([first.parent])[0]) == 2
