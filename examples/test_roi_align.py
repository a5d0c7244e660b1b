"""How the tests of a ported model may use the fixture ``roi_align_parity``, which comes with ms2torch_roi."""

import numpy as np
import pytest

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((2, 16, 25, 38)).astype(np.float32)  # (N, C, H, W), of a stride of 16
CORNERS = RNG.uniform(0, 300, (100, 2))
ROIS = np.concatenate(  # (K, 5) rows of (index, x1, y1, x2, y2), in image pixels
    (RNG.integers(0, 2, (100, 1)), CORNERS, CORNERS + RNG.uniform(0, 300, (100, 2))), axis=1
).astype(np.float32)


@pytest.mark.needs_torch
def test_the_call_of_a_mindspore_model_gives_the_same_on_torch(roi_align_parity):
    roi_align_parity(FEATURES, ROIS, pooled_height=7, pooled_width=7, spatial_scale=1 / 16, sample_num=2)


@pytest.mark.needs_mindspore
def test_the_call_of_a_torch_model_gives_the_same_on_mindspore(roi_align_parity):
    roi_align_parity(FEATURES, ROIS, output_size=(7, 7), spatial_scale=1 / 16, sampling_ratio=2, aligned=True)


@pytest.mark.needs_torch
def test_a_ported_model_pools_as_mindspore_does(roi_align_parity):
    import torch

    from ms2torch_roi import ROIAlign

    model = ROIAlign(14, 14, 1 / 16, 2, 0)  # stands for your model
    output = model(torch.from_numpy(FEATURES), torch.from_numpy(ROIS))
    arguments = {"pooled_height": 14, "pooled_width": 14, "spatial_scale": 1 / 16, "sample_num": 2, "roi_end_mode": 0}
    roi_align_parity(FEATURES, ROIS, actual=output, **arguments)
