"""How each library's RoIAlign is called, and what takes its place: the only table of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

TO_TORCH, TO_MINDSPORE = "to-torch", "to-mindspore"

REQUIRED: Final = object()  # in the place of a default


@dataclass(frozen=True, eq=False)
class Form:
    """An operator of a library.

    Args:
        library: its package.
        name: of the operator.
        parameters: their defaults, in the order of the call, by the names that the port has for them.
        target: the port's name in ``ms2torch_roi``, dotted if it is of a module there; None if there is none.
        by_hand: what to do where there is none.
        renamed: further names of parameters, and what the port calls them.
        allowed: the values that have a port, of parameters with others too.
        methods: what the objects that it makes can do and those of the port can too, beside a call.
        is_function: it returns the pooled values, rather than what computes them.
    """

    library: str
    name: str
    parameters: Mapping[str, Any]
    target: str | None
    by_hand: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    methods: Collection[str] = ()
    is_function: bool = False

    @property
    def direction(self) -> str:
        return TO_TORCH if self.library == "mindspore" else TO_MINDSPORE

    @property
    def samples(self) -> str:
        """The parameter that is 0 or less for an adaptive grid."""
        return "sample_num" if self.library == "mindspore" else "sampling_ratio"

    @property
    def keeps_arguments(self) -> bool:
        """Whether every call of it is a call of the port, with the same arguments."""
        return self.target is not None and list(self.parameters.items()) == list(PORTS[self.target].items())

    @property
    def module(self) -> str:
        """The module of the port."""
        return ".".join(filter(None, (PACKAGE, (self.target or "").rpartition(".")[0])))


PACKAGE = "ms2torch_roi"

_OF_TORCHVISION = {"output_size": REQUIRED, "spatial_scale": REQUIRED, "sampling_ratio": REQUIRED, "aligned": False}
_MMCV = {"spatial_scale": 1.0, "sampling_ratio": 0, "pool_mode": "avg", "aligned": True}

# What the ports take. They are those of the originals' own operators.
PORTS: Mapping[str, Mapping[str, Any]] = {
    "ROIAlign": {
        "pooled_height": REQUIRED,
        "pooled_width": REQUIRED,
        "spatial_scale": REQUIRED,
        "sample_num": 2,
        "roi_end_mode": 1,
    },
    "RoIAlign": _OF_TORCHVISION,
    "compat.detectron2.ROIAlign": {**_OF_TORCHVISION, "aligned": True},
    "compat.mmcv.RoIAlign": {"output_size": REQUIRED, **_MMCV, "use_torchvision": False},
    "roi_align": {
        "input": REQUIRED,
        "boxes": REQUIRED,
        "output_size": REQUIRED,
        "spatial_scale": 1.0,
        "sampling_ratio": -1,
        "aligned": False,
    },
    "MultiScaleRoIAlign": {
        "featmap_names": REQUIRED,
        "output_size": REQUIRED,
        "sampling_ratio": REQUIRED,
        "canonical_scale": 224,
        "canonical_level": 4,
    },
}

# Parameters that the ports take by their names only.
BY_NAME_ONLY = ("canonical_scale", "canonical_level")

_CHAINED = ("add_prim_attr", "recompute", "set_device")
_FORWARD = ("forward",)
_OLD_MMCV_NAMES = {"out_size": "output_size", "sample_num": "sampling_ratio"}
_AVERAGE = {"pool_mode": ("avg",)}

_FORMS = (
    Form("mindspore", "ROIAlign", PORTS["ROIAlign"], "ROIAlign", allowed={"roi_end_mode": (0, 1)}, methods=_CHAINED),
    Form("torchvision", "RoIAlign", PORTS["RoIAlign"], "RoIAlign", methods=_FORWARD),
    Form("torchvision", "roi_align", PORTS["roi_align"], "roi_align", is_function=True),
    Form(
        "torchvision",
        "MultiScaleRoIAlign",
        PORTS["MultiScaleRoIAlign"],
        "MultiScaleRoIAlign",
        methods=_FORWARD,
    ),
    Form(
        "detectron2",
        "ROIAlign",
        PORTS["compat.detectron2.ROIAlign"],
        "compat.detectron2.ROIAlign",
        methods=_FORWARD,
    ),
    # detectron2 passes torchvision's function on.
    Form("detectron2", "roi_align", PORTS["roi_align"], "roi_align", is_function=True),
    Form(
        "detectron2",
        "ROIPooler",
        {
            "output_size": REQUIRED,
            "scales": REQUIRED,
            "sampling_ratio": REQUIRED,
            "pooler_type": REQUIRED,
            "canonical_box_size": 224,
            "canonical_level": 4,
        },
        None,
        "pool each roi on its own level, by the thresholds of ms2torch_roi.levels.DETECTRON2",
    ),
    Form(
        "mmcv",
        "RoIAlign",
        PORTS["compat.mmcv.RoIAlign"],
        "compat.mmcv.RoIAlign",
        renamed=_OLD_MMCV_NAMES,
        allowed=_AVERAGE,
        methods=_FORWARD,
    ),
    Form(
        "mmcv",
        "roi_align",
        {"input": REQUIRED, "boxes": REQUIRED, "output_size": REQUIRED, **_MMCV},
        "roi_align",
        renamed={**_OLD_MMCV_NAMES, "rois": "boxes"},
        allowed=_AVERAGE,
        is_function=True,
    ),
    Form(
        "torchvision",
        "torch.ops.torchvision.roi_align",
        {
            "input": REQUIRED,
            "rois": REQUIRED,
            "spatial_scale": REQUIRED,
            "pooled_height": REQUIRED,
            "pooled_width": REQUIRED,
            "sampling_ratio": REQUIRED,
            "aligned": REQUIRED,
        },
        None,
        "call torchvision.ops.roi_align, whose arguments are in another order",
        is_function=True,
    ),
)
_BY_NAME = {(form.library, form.name): form for form in _FORMS}

# Modules that have an operator, for what `from module import *` may have brought.
_MODULES = {
    "mindspore.ops": "ROIAlign",
    "mindspore.ops.operations": "ROIAlign",
    "mindspore.ops.operations.nn_ops": "ROIAlign",
    "torchvision.ops": "RoIAlign roi_align MultiScaleRoIAlign",
    "torchvision.ops.roi_align": "RoIAlign roi_align",
    "torchvision.ops.poolers": "MultiScaleRoIAlign",
    "detectron2.layers": "ROIAlign roi_align",
    "detectron2.layers.roi_align": "ROIAlign roi_align",
    "detectron2.modeling": "ROIPooler",
    "detectron2.modeling.poolers": "ROIPooler",
    "mmcv.ops": "RoIAlign roi_align",
    "mmcv.ops.roi_align": "RoIAlign roi_align",
}
CLASSES = frozenset(form.name for form in _FORMS if not form.is_function)
LIBRARIES = frozenset({"torch", *(form.library for form in _FORMS)})


def form_of(name: str) -> Form | None:
    """Return the operator that an imported name in full is, such as ``mindspore.ops.operations.ROIAlign``."""
    if name == "torch.ops.torchvision.roi_align":
        return _BY_NAME["torchvision", name]
    package, _, rest = name.partition(".")
    return _BY_NAME.get((package, rest.rpartition(".")[2]))


def form_in(module: str, name: str) -> Form | None:
    """Return the operator that a module has by a name, which may be dotted, if it is known to have it."""
    holder, _, last = f"{module}.{name}".rpartition(".")
    return form_of(f"{holder}.{last}") if last in _MODULES.get(holder, "").split() else None
