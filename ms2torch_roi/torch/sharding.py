"""ROIAlign on torch's DTensors: how its operators are sharded, registered when this is imported.

Each rank pools what it holds: its own rois, or its own channels. What is placed otherwise is brought into one of these
placements first, as DTensor does it for its own operators.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from . import operator

_Placements = list[tuple[list[Placement], list[Placement | None]]]


@register_sharding(operator.roi_align)
def _(features: Any, rois: Any, *arguments: Any) -> _Placements:
    return _placements(Shard(0), len(arguments))


@register_sharding(operator.roi_align_backward)
def _(of_output: Any, rois: Any, *arguments: Any) -> _Placements:
    return _placements(Partial(), len(arguments))


def _placements(of_own_rois: Placement, numbers: int) -> _Placements:
    """Return the placements of the result, and of the arguments; ``of_own_rois`` is that of what ranks make of theirs.

    The values that are pooled by channel are the features, or the gradient of the output, which has a row for each roi.
    """
    values = Replicate() if isinstance(of_own_rois, Shard) else Shard(0)
    rest = [None] * numbers
    return [
        ([Replicate()], [Replicate(), Replicate(), *rest]),
        ([of_own_rois], [values, Shard(0), *rest]),
        ([Shard(1)], [Shard(1), Replicate(), *rest]),
    ]


def check(features: Any, rois: Any) -> None:
    """Raise ValueError if only one of the two is a DTensor, or they are on different meshes."""
    for name, value in (("features", features), ("rois", rois)):
        if not isinstance(value, DTensor):
            raise ValueError(
                f"ROIAlign: features and rois must both be DTensors or neither, but {name} is a {type(value).__name__};"
                " distribute_tensor(..., [Replicate()]) makes it one"
            )
    if features.device_mesh != rois.device_mesh:
        raise ValueError(f"ROIAlign: features are on the mesh {features.device_mesh} but rois on {rois.device_mesh}")
