"""``ms2torch-roi replay``."""

from __future__ import annotations

import argparse

from .. import params
from . import STATUSES, UNREADABLE, CouldNotRunError, arguments, make_console, reporting

HELP = "compare the ports with calls that ms2torch_roi.record has recorded"
DESCRIPTION = (
    "Run the port on every recorded call, and compare its output, and its gradient if that was"
    " recorded, with the recorded ones. The framework that they were recorded in is not needed."
)
EPILOG = STATUSES.format("replay") + UNREADABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "paths",
        nargs="*",
        type=arguments.path,
        metavar="PATH",
        help="recorded calls, or folders or .zip files of them; or URLs of those",
    )
    parser.add_argument(
        "--golden", action="store_true", help="replay the calls of every supported MindSpore that come with the package"
    )
    parser.add_argument(
        "--backward-roi-end-mode",
        type=int,
        choices=(0, 1, 2, 3),
        help="of the port to torch: 1 for the gradient that MindSpore has in mode 0 (default: as roi_end_mode)",
    )
    parser.add_argument(
        "--rule",
        choices=tuple(params.MODES),
        default="cpu",
        help="what the calls of MindSpore's operator are computed by, as ms2torch-roi identify finds it (default:"
        " %(default)s)",
    )
    parser.add_argument(
        "--backward-rule", choices=tuple(params.MODES), help="and what their gradients are (default: as --rule)"
    )
    arguments.add_adapter(parser)
    arguments.add_device(parser)
    arguments.add_run_options(parser)
    arguments.add_report_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    console = make_console(quiet=options.quiet)
    from ..parity import campaign, operators, remote, report
    from ..parity.report import terminal

    if bool(options.paths) == options.golden:
        raise CouldNotRunError("give files or folders of recorded calls, or --golden")
    paths = sorted(campaign.GOLDEN.iterdir()) if options.golden else options.paths
    try:
        files, others = campaign.recorded_files(paths)
    except (OSError, ValueError) as error:
        raise CouldNotRunError(str(error)) from error
    for name in ("backward_roi_end_mode", "backward_rule"):
        if options.adapter is not None and getattr(options, name) is not None:
            option = "--" + name.replace("_", "-")
            raise CouldNotRunError(f"{option} is of gradients, which are not asked of an adapter: leave one out")
    reporting.prepare_reports(options, (*files, *paths))
    replay = campaign.Replay(
        files,
        options.backward_roi_end_mode,
        arguments.tolerance_of(options),
        options.rule,
        options.backward_rule,
        options.device,
        arguments.adapter_of(options),
    )
    run = report.Run(
        oracle="recording",
        versions=operators.versions(()),
        devices={},
        origins=[report.Origin.here(options.command_line)],
        numbers=len(replay),
        settings={
            "files": [remote.name(file) for file in files],
            "backward_roi_end_mode": options.backward_roi_end_mode,
            "rule": options.rule,
            "backward_rule": options.backward_rule,
            "device": options.device,
            "adapter": options.adapter,
        },
        tolerance=replay.tolerance,
        notes=[f"Not compared: {remote.name(file)} is no recorded call." for file in others],
    )
    terminal.print_origins(run, console)
    engine = arguments.engine_of(options) if options.device != "cpu" else ""
    reporting.run_cases(replay, run, options, console)
    run.versions = operators.versions({verdict.direction for verdict in run.verdicts})
    run.devices = operators.devices(run.versions, options.device)
    terminal.print_headline(run, console)
    if engine:
        console.print(f"ROIAlign computes on {engine}.", highlight=False, soft_wrap=True)
    return reporting.finish(run, options, console)
