"""Rewritten sources run, and have the bits of the originals in the real frameworks."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits
from marked import SOURCES, read

from ms2torch_roi.migrate.rewriting import rewrite

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((2, 3, 24, 32)).astype(np.float32)
CORNERS = np.sort(RANDOM.uniform(1, 120, (20, 2, 2)), axis=1).reshape(20, 4)
ROIS = np.concatenate([RANDOM.integers(0, 2, (20, 1)), CORNERS], 1).astype(np.float32)

MINDSPORE_MODELS = [
    "zoo_extractor.py",
    "zoo_tracktor.py",
    "zoo_mode_argument.py",
    "zoo_keywords.py",
    "built_in_construct.py",
    "operators_in_a_list.py",
    "imports.py",
    "star.py",
]


def run(path):
    spec = importlib.util.spec_from_file_location(f"source_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pool


def rewritten(name, folder):
    path = folder / name
    path.write_text(rewrite(read(name)), encoding="utf-8")
    assert "ms2torch_roi." in path.read_text(encoding="utf-8")
    return run(path)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("name", MINDSPORE_MODELS)
def test_a_rewritten_mindspore_model_has_the_bits_of_the_original(ms, tmp_path, name):
    features, rois = ms.Tensor(FEATURES), ms.Tensor(ROIS)
    expected = run(SOURCES / name)(features, rois).asnumpy()
    actual = rewritten(name, tmp_path)(features, rois)
    assert isinstance(actual, ms.Tensor)
    assert_same_bits(actual.asnumpy(), expected)


@pytest.mark.needs_mindspore
def test_a_rewritten_extractor_of_torchvision_has_the_bits_of_the_original(ms, tmp_path):
    expected = run(SOURCES / "torchvision_pyramid.py")(torch.tensor(FEATURES), torch.tensor(ROIS))
    actual = rewritten("torchvision_pyramid.py", tmp_path)(ms.Tensor(FEATURES), ms.Tensor(ROIS))
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same_bits(ours.asnumpy(), theirs.numpy())


@pytest.mark.needs_mindspore
def test_a_rewritten_torchvision_model_has_the_bits_of_the_original(ms, tmp_path):
    features, boxes = torch.tensor(FEATURES), torch.tensor(ROIS)
    expected = run(SOURCES / "torchvision_heads.py")(features, boxes)
    actual = rewritten("torchvision_heads.py", tmp_path)(features, boxes)
    assert_same_bits(actual.numpy(), expected.numpy())


def detectron2_pools(features, boxes):
    pool = torchvision.ops.roi_align
    return [
        pool(features, boxes, (3, 2), 0.25, 2, True),
        pool(features, boxes, (3, 2), 0.25, 0, False),
        pool(features, boxes, (3, 2), 0.25, 2, True),
        pool(features, boxes, (3, 2), 0.25, 2, False),
    ]


def mmcv_pools(features, boxes):
    pool = torchvision.ops.roi_align
    return [
        pool(features, boxes, (3, 2), 1.0, 0, True),
        pool(features, boxes, (3, 2), 0.25, 2, True),
        pool(features, boxes, (3, 2), 0.25, 2, False),
        pool(features, boxes, (3, 2), 1.0, 2, True),
        pool(features, boxes, (3, 2), 0.25, 2, True),
        pool(features, boxes, (3, 2), 0.25, 2, True),
        pool(features, boxes, (3, 2), 1.0, 2, True),
    ]


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(("name", "pools"), [("detectron2_head.py", detectron2_pools), ("mmcv_head.py", mmcv_pools)])
def test_rewritten_calls_of_detectron2_and_mmcv_are_torchvisions_with_their_defaults(
    ms, tmp_path, monkeypatch, name, pools
):
    # Their packages are not here; only the imports, which are left, need them.
    for module in ("detectron2", "detectron2.layers", "detectron2.layers.roi_align", "detectron2.modeling"):
        stand_in(monkeypatch, module, "ROIAlign", "cat", "roi_align")
    stand_in(monkeypatch, "detectron2.modeling.poolers", "ROIPooler")
    stand_in(monkeypatch, "mmcv", "ops")
    stand_in(monkeypatch, "mmcv.ops", "RoIAlign", "roi_align")
    features, boxes = torch.tensor(FEATURES), torch.tensor(ROIS)
    actual = rewritten(name, tmp_path)(features, boxes)
    assert_same_bits(actual.numpy(), torch.cat(pools(features, boxes)).numpy())


def stand_in(monkeypatch, module, *names):
    stand_in = types.ModuleType(module)
    for name in names:
        setattr(stand_in, name, None)
    monkeypatch.setitem(sys.modules, module, stand_in)
