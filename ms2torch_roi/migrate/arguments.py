"""What the arguments of a call are, what no port has of them, and what a person should know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .forms import PORTS, REQUIRED, TO_TORCH, Form


@dataclass(frozen=True)
class Argument:
    """An argument as it stands in the source, and the values that it may have, None if that cannot be told."""

    text: str
    values: list[Any] | None

    @property
    def resolved(self) -> str:
        """Its value if it has one, otherwise its text."""
        return repr(self.values[0]) if self.values is not None and len(self.values) == 1 else self.text


def _values(form: Form, arguments: Mapping[str, Argument], name: str) -> list[Any] | None:
    """Return the values that a parameter may have, None if that cannot be told."""
    if name in arguments:
        return arguments[name].values
    default = form.parameters[name]
    return None if default is REQUIRED or hides(arguments) else [default]


def hides(arguments: Mapping[str, Argument]) -> bool:
    """Whether a splat hides arguments."""
    return any(argument.text.startswith("*") for argument in arguments.values())


def without_port(form: Form, arguments: Mapping[str, Argument]) -> str | None:
    """Return why no call of a port does what a call with these arguments does, if so."""
    if form.target is None:
        return form.by_hand
    for name, allowed in form.allowed.items():
        found = _values(form, arguments, name)
        if found is None and name not in PORTS[form.target]:
            return f"{name} cannot be told, and the port has {' or '.join(map(repr, allowed))} only"
        refused = [value for value in found or () if value not in allowed]
        if refused:
            how = "needs a rule of Ascend's kernels too" if name == "roi_end_mode" else "has no port"
            return f"{name}={refused[0]!r} {how}"
    return None


def notes(form: Form, arguments: Mapping[str, Argument]) -> Iterator[tuple[str, str, bool]]:
    """Yield the kind and text of what a person should know of a call, and whether there is something to do."""
    if hides(arguments):
        yield "splat", "a splat hides arguments: see what the others below would say of them", True
    modes = _values(form, arguments, "roi_end_mode") if "roi_end_mode" in form.parameters else []
    if modes is None and not hides(arguments):
        yield (
            "mode-unknown",
            f"roi_end_mode is {arguments['roi_end_mode'].text}, which cannot be told here: if it is 0 and the model is"
            " trained, add backward_roi_end_mode=1; 2 and 3 need a rule of Ascend's too",
            True,
        )
    if 0 in (modes or ()):
        yield (
            "mode-0",
            "mode 0: its gradient in MindSpore is that of mode 1; if the model is trained, add"
            " backward_roi_end_mode=1, which trains as MindSpore does",
            True,
        )
    samples = _values(form, arguments, form.samples)
    if any(isinstance(value, int) and value <= 0 for value in samples or ()):
        if form.direction == TO_TORCH:
            yield "adaptive-grid", "an adaptive grid depends on the values of rois: it cannot be exported", False
        else:
            text = (
                "an adaptive grid depends on the values of boxes: graph mode has it on a CPU only, where the lengths of"
                " all inputs are known when it compiles, and it cannot be exported"
            )
            yield "adaptive-grid", text, True
    if hides(arguments) or "pool_mode" not in form.parameters:
        return
    if _values(form, arguments, "pool_mode") is None:
        text = f"pool_mode is {arguments['pool_mode'].text}, which cannot be told here: the port refuses 'max'"
        yield "pool-mode-unknown", text, True
