"""What a command runs, case by case: the cases of a check, or recorded calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from . import adapters, cases, diagnosis, edges, identification, operators, remote, shrinking, verdicts
from .adapters import Adapter
from .case import Case, MindSporeCase
from .recording import calls, members
from .verdicts import EXACT, Tolerance, Verdict

NDArray = npt.NDArray[Any]

DIRECTIONS = ("to-torch", "to-mindspore")
ROUND_TRIP = "round trip: "
GRADIENT = f"{cases.WORKLOAD}: gradient"

_RANDOM: dict[str, Callable[[int, int], Case]] = {
    "to-torch": cases.random_case,
    "to-mindspore": cases.random_torchvision_case,
}
_WORKLOADS: dict[str, Callable[[int, int], Case]] = {
    "to-torch": cases.workload_case,
    "to-mindspore": cases.torchvision_workload_case,
}

# Recorded calls that come with the package: one folder for each version of MindSpore.
GOLDEN = Path(__file__).parent / "golden"

NOT_FOR_ADAPTER = "of calls of the other library's operator, which the adapter does not take"
NOT_ON_DEVICE = "of calls that must end in an error, which can end the process on this device"


class Campaign(Protocol):
    """Numbered cases, each of which can be run anywhere: whatever is needed can be pickled."""

    def __len__(self) -> int: ...

    def verdicts(self, number: int) -> list[Verdict]:
        """Run one case, and judge it."""

    def only(self, numbers: Sequence[int]) -> Campaign:
        """Return what is needed to run the cases of these numbers, to be sent elsewhere."""

    def lost(self, number: int) -> Verdict:
        """Return the verdict on a case that ended the process that ran it, without running it."""

    def shrunk(self, verdict: Verdict) -> Verdict:
        """Return the verdict on a smaller case that fails as the case of this verdict does, if there is one."""


@dataclass(frozen=True)
class Check:
    """The documented example, the catalogue of edges, and for each direction so many random cases and workloads.

    The ports are compared with both frameworks, or, without one of them, with the NumPy reference. Of workloads the
    gradients are compared too, if both frameworks are there. ``device`` is where torch runs the port to it; on others
    than a CPU no case runs that must end in an error, which may end the process there. An ``adapter`` is run in place
    of the port, without round trips and gradients.
    """

    random_cases: int
    workloads: int = 0
    seed: int = 0
    directions: tuple[str, ...] = DIRECTIONS
    with_mindspore: bool = True
    with_torch: bool = True
    tolerance: Tolerance = EXACT
    device: str = "cpu"
    adapter: Adapter | None = None

    def __len__(self) -> int:
        return len(_listed_cases(self.directions)) + (self.random_cases + self.workloads) * len(self.directions)

    def case(self, number: int) -> Case:
        """Return a case: first those listed, then the random ones of each direction in turn, and then the workloads."""
        listed = _listed_cases(self.directions)
        if number < len(listed):
            return listed[number]
        of_series, direction = divmod(number - len(listed), len(self.directions))
        if of_series < self.random_cases:
            return _RANDOM[self.directions[direction]](self.seed, of_series)
        return _WORKLOADS[self.directions[direction]](self.seed, of_series - self.random_cases)

    def verdicts(self, number: int) -> list[Verdict]:
        """Run one case on the original and the port, and on a round trip through both; or backward, if a workload."""
        case = self.case(number)
        if case.raises is not None and self.device != "cpu":
            return [Verdict(case.name, case.direction, case.category, number, left_out={NOT_ON_DEVICE: len(case.rois)})]
        expected = operators.outcome(self._original, case)
        found = [self._verdict(number, case, expected, self._port, case.category)]
        if not self._with_both or case.raises is not None or self.adapter is not None:
            return found
        if case.category.startswith(cases.WORKLOAD):
            found.append(self._verdict_on_gradient(number, case))
        else:
            category = ROUND_TRIP + case.category.split(":")[0]
            found.append(self._verdict(number, case, expected, operators.round_trip, category))
        return found

    def only(self, numbers: Sequence[int]) -> Check:
        """Return all: the cases are made where they run."""
        return self

    def lost(self, number: int) -> Verdict:
        """Name the case, and how to run it."""
        case = self.case(number)
        again = verdicts.reproduction(case, self._original.__name__, self._named(self._port, case))
        verdict = Verdict(case.name, case.direction, case.category, number, problem=verdicts.LOST, call=case.call)
        return replace(verdict, reproduction=again)

    def shrunk(self, verdict: Verdict) -> Verdict:
        """Shrink the random cases; the others are small, and known by name."""
        case = self.case(verdict.number)
        is_lost = verdict.problem == verdicts.LOST or adapters.is_lost(verdict.problem)
        if not case.category.startswith((cases.RANDOM, cases.WORKLOAD)) or is_lost:
            return verdict
        port = self._port
        if verdict.category.startswith(ROUND_TRIP):
            port = operators.round_trip

        def again(case: Case) -> Verdict:
            if verdict.category == GRADIENT:
                return self._verdict_on_gradient(verdict.number, case)
            expected = operators.outcome(self._original, case)
            return self._verdict(verdict.number, case, expected, port, verdict.category)

        def fails_alike(case: Case) -> bool:
            smaller = again(case)
            return not smaller.passed and _failure(smaller) == _failure(verdict)

        small = shrinking.shrink(case, fails_alike)
        return verdict if small is case else again(small)

    @property
    def _original(self) -> operators.Operator:
        return operators.original if self._with_both else operators.reference

    @property
    def _with_both(self) -> bool:
        return self.with_mindspore and self.with_torch

    @property
    def _port(self) -> Callable[..., NDArray]:
        return operators.port if self.adapter is None else self._run_adapter

    def _verdict(
        self, number: int, case: Case, expected: NDArray | Exception, port: Callable[..., NDArray], category: str
    ) -> Verdict:
        actual = operators.outcome(operators.on_device(port, self._device(case)), case)
        verdict = replace(verdicts.judge(case, expected, actual, category, self.tolerance), number=number)
        if verdict.passed:
            return verdict
        return replace(
            verdict,
            explanation=_explained(diagnosis.explain, case, expected, actual),
            reproduction=verdicts.reproduction(case, self._original.__name__, self._named(port, case)),
        )

    def _run_adapter(self, case: Case) -> NDArray:
        assert self.adapter is not None
        return adapters.run(self.adapter, case)

    def _named(self, port: Callable[..., NDArray], case: Case) -> str:
        """Return the Python that runs a case as a port does."""
        if self.adapter is not None:
            return f"adapters.{self.adapter}.call"
        if self._device(case) == "cpu":
            return f"operators.{port.__name__}"
        return f"lambda case: operators.{port.__name__}(case, {self.device!r})"

    def _device(self, case: Case) -> str:
        return self.device if case.direction == "to-torch" else "cpu"

    def _verdict_on_gradient(self, number: int, case: Case) -> Verdict:
        output_gradient = operators.some_output_gradient(case)
        expected = operators.outcome(
            functools.partial(operators.original_gradient, output_gradient=output_gradient), case
        )
        device = self._device(case)
        of_port = functools.partial(
            operators.gradient, output_gradient=output_gradient, backward_roi_end_mode=1, device=device
        )
        actual = operators.outcome(of_port, case)
        # Both originals can be had in the order of one thread, which the ports have too.
        verdict = verdicts.judge_gradient(case, expected, actual, GRADIENT, self.tolerance, bound=0.0)
        if verdict.passed:
            return replace(verdict, number=number)
        explain = functools.partial(diagnosis.explain_gradient, case, output_gradient)
        return replace(
            verdict,
            number=number,
            explanation=_explained(explain, expected, actual),
            reproduction=verdicts.reproduction_of_gradient(case, device),
        )


@functools.cache
def _listed_cases(directions: tuple[str, ...]) -> list[Case]:
    return [case for case in (*cases.documented_cases(), *edges.edge_cases()) if case.direction in directions]


@dataclass(frozen=True)
class Replay:
    """Recorded calls, compared with the ports.

    ``backward_roi_end_mode``, ``rule`` and ``backward_rule`` are those of :class:`ms2torch_roi.ROIAlign`, and
    ``device`` is where torch runs it. An ``adapter`` is run in place of the port, and gradients are left out then.
    """

    files: tuple[Path, ...] | dict[int, Path]
    backward_roi_end_mode: int | None = None
    tolerance: Tolerance = EXACT
    rule: str = "cpu"
    backward_rule: str | None = None
    device: str = "cpu"
    adapter: Adapter | None = None

    def __len__(self) -> int:
        return len(self.files)

    def verdicts(self, number: int) -> list[Verdict]:
        """Run the port on one recorded call, and on its gradient if that was recorded.

        Raises:
            ImportError: the framework that the port runs on is missing.
        """
        path = self.files[number]
        try:
            call = calls.read(path)
        except (OSError, ValueError) as error:
            return [Verdict(calls.name_of(path), "unknown", verdicts.UNREADABLE, number, problem=str(error))]
        case, expected = call.case, call.result
        device = self.device if case.direction == "to-torch" else "cpu"
        if isinstance(case, MindSporeCase):
            case = replace(case, rule=self.rule)
            call = replace(call, case=case)
        not_run = Verdict(case.name, case.direction, case.category, number)
        if case.raises is not None and device != "cpu":
            return [replace(not_run, left_out={NOT_ON_DEVICE: len(case.rois)})]
        if self.adapter is None:
            actual = operators.outcome(operators.on_device(operators.port, device), case)
        else:
            try:
                takes = isinstance(case, self.adapter.kind)
            except adapters.AdapterError:  # in this process: in that of the command it could be imported
                takes = True
            if not takes:
                return [replace(not_run, left_out={NOT_FOR_ADAPTER: len(case.rois)})]
            actual = operators.outcome(functools.partial(adapters.run, self.adapter), case)
        if isinstance(actual, ImportError):
            raise actual
        verdict = verdicts.judge(case, expected, actual, tolerance=self.tolerance)
        if not verdict.passed:
            of_device = _explained(lambda *_: identification.explanation(call), expected, actual)
            of_rules = _explained(diagnosis.explain, case, expected, actual)
            if of_device and of_rules.startswith(diagnosis.NONE_FITS):  # but that of a device, to within its rounding
                of_rules = of_rules.removeprefix(diagnosis.NONE_FITS) if "closest to" in of_rules else ""
            explanation = " ".join(filter(None, (of_device, of_rules.strip())))
            verdict = replace(verdict, explanation=explanation)
        found = [verdict]
        if self.adapter is None and call.output_gradient is not None and call.features_gradient is not None:
            gradient = functools.partial(
                operators.gradient,
                output_gradient=call.output_gradient,
                backward_roi_end_mode=self.backward_roi_end_mode,
                backward_rule=self.backward_rule,
                device=device,
            )
            actual = operators.outcome(gradient, case)
            category = f"gradient, {case.category}"
            verdict = verdicts.judge_gradient(case, call.features_gradient, actual, category, self.tolerance)
            if not verdict.passed:
                explain = functools.partial(diagnosis.explain_gradient, case, call.output_gradient)
                verdict = replace(verdict, explanation=_explained(explain, call.features_gradient, actual))
            found.append(verdict)
        again = verdicts.reproduction_of_recorded(path, self._settings)
        return [replace(v, number=number, reproduction="" if v.passed else again) for v in found]

    @property
    def _settings(self) -> str:
        """The arguments that are not the default, as Python."""
        others = [field for field in fields(self)[1:] if getattr(self, field.name) != field.default]
        texts = (f"{field.name}={getattr(self, field.name)!r}" for field in others)
        modules = {"=Tolerance": "=verdicts.Tolerance", "=Adapter": "=adapters.Adapter"}
        settings = ", ".join(texts)
        for name, qualified in modules.items():
            settings = settings.replace(name, qualified)
        return settings

    def only(self, numbers: Sequence[int]) -> Replay:
        """Return the files of these numbers alone: there may be very many."""
        return replace(self, files={number: self.files[number] for number in numbers})

    def lost(self, number: int) -> Verdict:
        """Name the file, which may be what ended the process when it was read."""
        path = self.files[number]
        again = verdicts.reproduction_of_recorded(path, self._settings)
        return Verdict(calls.name_of(path), "unknown", "lost", number, problem=verdicts.LOST, reproduction=again)

    def shrunk(self, verdict: Verdict) -> Verdict:
        """Leave recorded calls as they are: there is no original to ask for the output of another."""
        return verdict


def _explained(explain: Callable[..., str], *arguments: Any) -> str:
    """Explain a difference between two arrays; an error speaks for itself."""
    return explain(*arguments) if all(not isinstance(argument, Exception) for argument in arguments) else ""


def _failure(verdict: Verdict) -> tuple[bool, str]:
    """Return what makes two failures alike: whether values differ, and why."""
    return bool(verdict.differing), verdicts.cause(verdict)


def recorded_files(paths: Iterable[Path]) -> tuple[tuple[Path, ...], list[Path]]:
    """Return the recorded calls among files, folders and archives, by name, and what else is in those.

    Raises:
        OSError: a path that does not exist or cannot be read.
        ValueError: not one recorded call, or an archive that is damaged.
    """
    paths = list(paths)
    files: dict[Hashable, Path] = {}
    others: list[Path] = []
    for path in paths:
        with remote.errors(path):
            is_folder = path.is_dir()
            if is_folder or path.suffix == members.ARCHIVE_SUFFIX:
                for file in sorted(path.iterdir()) if is_folder else members.in_archive(path):
                    if file.suffix == calls.SUFFIX:
                        files[remote.identity(file)] = file
                    else:
                        others.append(file)
            else:
                path.stat()
                files[remote.identity(path)] = path
    if not files:
        folders = "".join(f"; {remote.name(other)} is a folder: give it too" for other in others if other.is_dir())
        raise ValueError(f"no recorded calls ({calls.SUFFIX} files) in {', '.join(map(remote.name, paths))}{folders}")
    return tuple(files.values()), others
