"""The pytest plugin: a fixture, recorded calls as tests, and markers for tests that need a framework.

pytest loads it wherever this package is installed. It imports neither NumPy nor a framework before they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from .. import PACKAGES, how_to_install

_FILES = pytest.StashKey[tuple[Path, ...]]()
_OTHERS = pytest.StashKey[list[Path]]()


@pytest.fixture(scope="session")
def roi_align_parity() -> Callable[..., None]:
    """Return ms2torch_roi.assert_parity: does a call of RoIAlign give the same on MindSpore and torchvision?"""
    from .assertions import assert_parity

    return assert_parity


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("ms2torch_roi").addoption(
        "--ms2torch-roi-calls",
        type=Path,
        metavar="DIR",
        help="test the ports on every call that ms2torch_roi.record has recorded in this folder",
    )
    parser.getgroup("ms2torch_roi").addoption(
        "--ms2torch-roi-backward-mode",
        type=int,
        choices=(0, 1),
        help="backward_roi_end_mode of the port to torch: 1 for the gradient that MindSpore has in mode 0",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and find the recorded calls before anything runs."""
    for extra, packages in PACKAGES.items():
        line = f"needs_{extra}: skip the test where {' or '.join(packages)} is not installed"
        config.addinivalue_line("markers", line)
    if config.option.ms2torch_roi_calls is not None:
        from .campaign import recorded_files

        folder = config.invocation_params.dir / config.option.ms2torch_roi_calls
        try:
            config.stash[_FILES], config.stash[_OTHERS] = recorded_files([folder])
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--ms2torch-roi-calls: {error}") from error


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say how many recorded calls there are, and which files in their folder are none."""
    if _FILES not in config.stash:
        return None
    left_out = "".join(f", {file.name} is none" for file in config.stash[_OTHERS])
    return f"ms2torch_roi: {len(config.stash[_FILES])} recorded calls{left_out}"


@pytest.hookimpl(tryfirst=True)  # -k and all else that selects or sorts tests comes after it
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a framework that is missing, and add the recorded calls."""
    for extra, packages in PACKAGES.items():
        marked = [item for item in items if item.get_closest_marker(f"needs_{extra}")]
        if marked and (missing := _missing(packages)):
            reason = f"{missing[0]} is not installed. {how_to_install(extra)}"
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
    if _FILES in config.stash:
        items.extend(session.genitems(RecordedCalls.from_parent(session, path=config.stash[_FILES][0].parent)))


def _missing(packages: Iterable[str]) -> list[str]:
    from .operators import versions

    installed = versions()
    return [package for package in packages if package not in installed]


class RecordedCalls(pytest.File):
    """The folder of recorded calls."""

    def collect(self) -> Iterable[pytest.Item]:
        return [RecordedCall.from_parent(self, name=file.name) for file in self.config.stash[_FILES]]


class RecordedCall(pytest.Item):
    """The test of one recorded call: the port to the other framework gives the same."""

    def runtest(self) -> None:
        from . import assertions, campaign, verdicts

        try:
            with assertions.kept_context():
                mode = self.config.option.ms2torch_roi_backward_mode
                found = campaign.Replay((self.path / self.name,), mode).verdicts(0)
        except ImportError as error:  # these tests were asked for by name: none may pass unseen
            pytest.fail(str(error), pytrace=False)
        failed = [
            "\n".join([f"{verdict.case} ({verdict.category})", *verdicts.describe(verdict)])
            for verdict in found
            if not verdict.passed
        ]
        if failed:
            pytest.fail("\n\n".join(failed), pytrace=False)
        if all(verdict.is_skipped for verdict in found):
            reasons = {f"{rows:,} rows {reason}" for verdict in found for reason, rows in verdict.left_out.items()}
            pytest.skip(f"nothing could be compared: {', '.join(sorted(reasons))}")

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"recorded call {self.name}"
