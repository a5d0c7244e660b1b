"""A picture of where MindSpore and torchvision sample one box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import how_to_install
from . import Explanation
from .placement import Placement, agreement

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "matplotlib":
        raise
    raise ImportError(f"matplotlib is not installed. {how_to_install('plot')}") from error

NDArray = npt.NDArray[Any]

# Blue and vermilion, which the colour-blind tell apart. Where both are the same, a cross in a ring and dashes on a line
# show both.
_STYLES: dict[str, dict[str, Any]] = {
    "MindSpore": {"color": "#0072B2", "linestyle": "-", "linewidth": 2.6, "marker": "o", "markerfacecolor": "none"},
    "torchvision": {"color": "#D55E00", "linestyle": (0, (4, 3)), "linewidth": 1.6, "marker": "x"},
}
_CELL: dict[str, Any] = {"color": "0.6", "linestyle": "none", "marker": "s", "markeredgewidth": 0}
_IMAGE: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.35", "linestyle": ":", "linewidth": 1.4}
_OUTSIDE = "0.9"

# More of them along an axis cannot be told apart: cells, and bins or samples of a box.
MAX_CELLS, MAX_BINS, MAX_SAMPLES = 100, 100, 100

# Width of a panel, and the largest and smallest markers on it, in points.
_PANEL, _LARGEST, _SMALLEST = 350, 9, 1


def save(explanation: Explanation, file: Path) -> None:
    """Draw, and write the picture in the format that the suffix of the file stands for.

    Raises:
        OSError: the file cannot be written.
    """
    draw(explanation).savefig(file, dpi=150)


def draw(explanation: Explanation) -> Figure:
    """Draw the boxes, bins and samples of MindSpore and torchvision over the feature cells.

    Two panels show the same part of the features, with MindSpore's box in both: on the left together with torchvision's
    when not aligned, on the right with the aligned one.
    """
    figure = Figure(figsize=(11, 6.8), layout=ConstrainedLayoutEngine(h_pad=0.12))
    figure.suptitle(explanation.title)
    panels = figure.subplots(1, 2)
    view = _view(explanation)
    for panel, torchvision in zip(panels, explanation.torchvision, strict=True):
        _draw_cells(panel, view, explanation.size)
        for placement in (explanation.mindspore, torchvision):
            _draw_placement(panel, view, placement, explanation.pooled)
        panel.set_title(_title(explanation.mindspore, torchvision), fontsize="medium")
        panel.set(xlim=view[0], ylim=view[1, ::-1], aspect="equal", xlabel="x in feature cells")
    panels[0].set_ylabel("y in feature cells")
    figure.legend(handles=_handles(explanation, view), loc="outside lower center", ncols=2)
    return figure


def _title(mindspore: Placement, torchvision: Placement) -> str:
    agrees = agreement(mindspore, torchvision)
    if agrees is None:
        pair = (mindspore, torchvision)
        says = ", ".join(f"{placement.library}: {placement.problem}" for placement in pair if placement.problem)
    else:
        says = f"samples are {agrees}"
    return f"MindSpore and torchvision, {torchvision.setting}\n{says}"


def _view(explanation: Explanation) -> NDArray:
    """Return the lowest and highest coordinates to draw, (2, 2): along x, then along y."""
    corners = [edges for placement in explanation.placements if (edges := _edges(placement)) is not None]
    lowest, highest = (extreme(corners or [np.asarray([(0, 0), (1, 1)])], axis=(0, 1)) for extreme in (np.min, np.max))
    centre = lowest / 2 + highest / 2
    # Square, so that there is room for any box beside another panel; and no narrower than numbers are apart there.
    half = max((highest - lowest).max() * 0.56, 0.6, 8 * np.spacing(np.abs(centre).max()))
    view: NDArray = np.stack((centre - half, centre + half), axis=1)
    return view


def _edges(placement: Placement) -> NDArray | None:
    """Return where the first bin starts and the last one ends, (2, 2), or None if that is nowhere."""
    start = placement.start.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        edges = np.stack((start, start + placement.used_size))
    return edges if np.isfinite(edges).all() else None


def _draw_cells(panel: Axes, view: NDArray, size: tuple[int, int] | None) -> None:
    """Draw a square where a feature value is, on lines through them, and what is outside the image in grey."""
    first, last = np.ceil(view[:, 0]), np.floor(view[:, 1])
    if size is not None:
        height, width = size
        panel.set_facecolor(_OUTSIDE)
        panel.add_patch(Rectangle((-1, -1), width + 1, height + 1, **_IMAGE, zorder=0.4))
        first, last = np.maximum(first, 0), np.minimum(last, (width - 1, height - 1))
    if not _has_cells(view) or not (first < last + 1).all():  # none in view, or too far away to be told apart
        return
    x, y = (np.arange(first[axis], last[axis] + 1) for axis in (0, 1))
    panel.vlines(x, y[0], y[-1], color="0.85", linewidth=0.8, zorder=0.5)
    panel.hlines(y, x[0], x[-1], color="0.85", linewidth=0.8, zorder=0.5)
    size_of_cell = _marker_size(1, view) / 2
    panel.plot(np.tile(x, y.size), np.repeat(y, x.size), **_CELL, markersize=size_of_cell, zorder=1)


def _has_cells(view: NDArray) -> bool:
    return bool((view[:, 1] - view[:, 0]).max() <= MAX_CELLS)


def _draw_placement(panel: Axes, view: NDArray, placement: Placement, pooled: tuple[int, int]) -> None:
    """Draw the box, its bins if they are few, and its samples likewise."""
    edges = _edges(placement)
    if edges is None:
        return
    style = _STYLES[placement.library]
    line = {key: style[key] for key in ("color", "linestyle")}
    (left, top), (right, bottom) = edges
    panel.plot([left, right, right, left, left], [top, top, bottom, bottom, top], **line, linewidth=style["linewidth"])
    height, width = pooled
    if max(pooled) <= MAX_BINS:
        thin = {"color": line["color"], "linestyles": line["linestyle"], "linewidth": style["linewidth"] / 3}
        panel.vlines(np.linspace(left, right, width + 1)[1:-1], top, bottom, **thin)
        panel.hlines(np.linspace(top, bottom, height + 1)[1:-1], left, right, **thin)
    if placement.positions is None:
        return
    x, y = (at.ravel() for at in placement.positions)
    if max(x.size, y.size) <= MAX_SAMPLES:
        apart = np.abs(placement.bin / placement.grid)
        markersize = _marker_size(apart[apart > 0].min(initial=np.inf), view)
        marker = {**style, "linestyle": "none", "markersize": markersize, "markeredgewidth": markersize / 7}
        panel.plot(np.tile(x, y.size), np.repeat(y, x.size), **marker)


def _marker_size(apart: float, view: NDArray) -> float:
    """Return the size, in points, of markers that are this many cells apart and shall not touch."""
    return float(np.clip(0.6 * apart * _PANEL / (view[0, 1] - view[0, 0]), _SMALLEST, _LARGEST))


def _handles(explanation: Explanation, view: NDArray) -> list[Artist]:
    handles: list[Artist] = [
        Line2D(
            [],
            [],
            **_STYLES["MindSpore"],
            markersize=9,
            label=f"MindSpore, {explanation.mindspore.setting}: box, bins and samples",
        ),
        Line2D([], [], **_STYLES["torchvision"], markersize=9, label="torchvision: box, bins and samples"),
    ]
    if _has_cells(view):
        what = "feature values; a sample is interpolated between the four around it"
        handles.append(Line2D([], [], **_CELL, markersize=5, label=what))
    if explanation.size is not None:
        handles.append(Patch(facecolor=_OUTSIDE, edgecolor="0.35", linestyle=":", label="outside: a sample adds 0"))
    return handles
