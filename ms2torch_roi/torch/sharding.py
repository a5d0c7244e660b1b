"""ROIAlign on torch's DTensors: each rank pools what it holds, and nothing is communicated in the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

# Placements of features and rois along one axis of the mesh: those of the output, and of the gradient for features.
_PLACEMENTS = {
    (Replicate(), Replicate()): (Replicate(), Replicate()),
    (Replicate(), Shard(0)): (Shard(0), Partial()),  # each rank pools its own rois
    (Shard(1), Replicate()): (Shard(1), Shard(1)),  # each rank pools its own channels
}


def pool(features: Any, rois: Any, pool_tensors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> DTensor:
    """Apply ``pool_tensors`` to the local parts of two DTensors.

    Raises:
        ValueError: only one of the two is a DTensor, they are on different meshes, or placed otherwise than above.
    """
    for name, value in (("features", features), ("rois", rois)):
        if not isinstance(value, DTensor):
            raise ValueError(
                f"ROIAlign: features and rois must both be DTensors or neither, but {name} is a {type(value).__name__};"
                " distribute_tensor(..., [Replicate()]) makes it one"
            )
    mesh = features.device_mesh
    if mesh != rois.device_mesh:
        raise ValueError(f"ROIAlign: features are on the mesh {mesh} but rois on {rois.device_mesh}")
    placements = list(zip(features.placements, rois.placements))  # noqa: B905  (one for each axis of the mesh)
    if not all(pair in _PLACEMENTS for pair in placements):
        raise ValueError(
            f"ROIAlign: features are placed as {features.placements} and rois as {rois.placements}; along an axis of"
            " the mesh, features may be sharded by channel, Shard(1), or rois by row, Shard(0); the other is replicated"
        )
    for size, placement in zip(mesh.shape, features.placements):  # noqa: B905
        share = -(-features.shape[1] // size)
        if placement == Shard(1) and share * (size - 1) >= features.shape[1]:
            raise ValueError(
                f"ROIAlign: features have {features.shape[1]} channels, too few to shard over {size} ranks"
            )
    of_output, of_gradient = zip(*(_PLACEMENTS[pair] for pair in placements))  # noqa: B905
    output = pool_tensors(features.to_local(grad_placements=of_gradient), rois.to_local())
    shape = torch.Size((rois.shape[0], features.shape[1], *output.shape[2:]))
    # Ranks can hold different numbers of rows, so the shape of the whole does not follow from that of a part.
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(output, mesh, of_output, run_check=False, shape=shape, stride=stride)
