"""``ms2torch-roi check``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from . import STATUSES, CouldNotRunError, arguments, make_console, reporting

HELP = "prove on this machine that both libraries agree to the last bit"
DESCRIPTION = (
    "Run both frameworks on the documented example, a catalogue of edge cases, and random cases, and"
    " compare the bits of every row that the original defines. There are two directions: MindSpore's operator"
    " against its port to torch (to-torch), and torchvision's against its port to MindSpore (to-mindspore). In a"
    " round trip, the calls of the other operator that sample the same places run on its port."
)
EPILOG = STATUSES.format("check")

DIRECTIONS = ["to-torch", "to-mindspore"]

# A workload takes as long as some twenty other random cases.
CASES_FOR_A_WORKLOAD = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--cases",
        type=arguments.count,
        default=500,
        metavar="N",
        help="random cases for each direction (default: %(default)s)",
    )
    parser.add_argument(
        "--workloads",
        type=arguments.count,
        metavar="N",
        help="random cases as large as models make them, of which the gradients are compared too, for each direction"
        " (default: one for every 50 of the others)",
    )
    parser.add_argument(
        "--seed", type=arguments.count, default=0, metavar="S", help="of the random cases (default: %(default)s)"
    )
    parser.add_argument("--direction", choices=DIRECTIONS, help="check one direction (default: both)")
    parser.add_argument(
        "--without-mindspore",
        action="store_true",
        help="compare the port to torch with the NumPy reference instead of MindSpore",
    )
    parser.add_argument(
        "--without-torch",
        action="store_true",
        help="compare the port to MindSpore with the NumPy reference instead of torchvision",
    )
    arguments.add_adapter(parser)
    arguments.add_device(parser)
    arguments.add_run_options(parser)
    arguments.add_report_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    console = make_console(quiet=options.quiet)
    from ..parity import campaign, cases, operators, report
    from ..parity.report import terminal

    with_mindspore, with_torch = not options.without_mindspore, not options.without_torch
    with_both = with_mindspore and with_torch
    if not with_mindspore and not with_torch:
        raise CouldNotRunError("--without-mindspore and --without-torch leave nothing to run")
    if options.direction == "to-mindspore" and not with_mindspore:
        raise CouldNotRunError("--direction to-mindspore needs MindSpore: it does not go with --without-mindspore")
    if options.direction == "to-torch" and not with_torch:
        raise CouldNotRunError("--direction to-torch needs torch: it does not go with --without-torch")
    if options.device != "cpu" and not with_torch:
        raise CouldNotRunError(f"--device is of torch's: --device {options.device} does not go with --without-torch")
    if options.direction == "to-mindspore" and options.device != "cpu":
        raise CouldNotRunError(f"--direction to-mindspore runs on a CPU: it does not go with --device {options.device}")
    reporting.prepare_reports(options)
    directions = [options.direction] if options.direction else DIRECTIONS
    adapter = arguments.adapter_of(options)
    if options.device != "cpu":
        directions = ["to-torch"]
    elif adapter is not None:
        if options.direction not in (None, adapter.kind.direction):
            raise CouldNotRunError(
                f"--direction {options.direction}: the adapter takes {adapter.kind.original}'s calls, which go"
                f" {adapter.kind.direction}"
            )
        directions = [adapter.kind.direction]
    elif not with_both:
        directions = ["to-torch" if with_torch else "to-mindspore"]
    check = campaign.Check(
        random_cases=options.cases,
        workloads=options.cases // CASES_FOR_A_WORKLOAD if options.workloads is None else options.workloads,
        seed=options.seed,
        directions=tuple(directions),
        with_mindspore=with_mindspore,
        with_torch=with_torch,
        tolerance=arguments.tolerance_of(options),
        device=options.device,
        adapter=adapter,
    )
    ports = [port for port, there in zip(DIRECTIONS, (with_torch, with_mindspore), strict=True) if there]
    versions = operators.versions(ports)
    if not {package for port in ports for package in operators.PACKAGES[port]} <= versions.keys():
        _import_frameworks(ports)  # which says what is missing
    run = report.Run(
        oracle="frameworks" if with_both else "reference",
        versions=versions,
        devices=operators.devices(versions, options.device),
        origins=[report.Origin.here(options.command_line)],
        numbers=len(check),
        settings={name: value for name, value in dataclasses.asdict(check).items() if name != "tolerance"},
        tolerance=check.tolerance,
        seed=options.seed,
    )
    if "to-mindspore" in check.directions and with_both and not operators.torchvision_has_its_errors():
        run.notes.append("Not run in torchvision, which may read out of bounds with this torch: what must be an error.")
    terminal.print_headline(run, console)
    terminal.print_origins(run, console)
    with console.status("importing the frameworks"):
        _import_frameworks(ports)
        engine = arguments.engine_of(options) if with_torch else ""
    reporting.run_cases(check, run, options, console)
    if adapter is None and "to-torch" in check.directions:
        console.print(f"ROIAlign computes on {engine}.", highlight=False, soft_wrap=True)
    for verdict in run.verdicts:
        printed = check.case(verdict.number).printed if verdict.category == cases.DOCUMENTED else None
        if printed is not None and verdict.passed:
            page = f"{verdict.case} ({verdict.direction}), from both, as its page has it:\n{printed}"
            console.print(page, markup=False, highlight=False, soft_wrap=True)
    return reporting.finish(run, options, console)


def _import_frameworks(ports: Sequence[str]) -> None:
    """Import what ports in these directions run on."""
    from ..parity import cases, operators

    documented = {case.direction: case for case in cases.documented_cases()}
    try:
        if "to-mindspore" in ports:
            operators.import_mindspore()
        for port in ports:
            operators.port(documented[port])
    except ImportError as error:
        hints = {"MindSpore is not installed": "--without-mindspore", "torch is not installed": "--without-torch"}
        hint = next((f", or use {option}" for missing, option in hints.items() if missing in str(error)), "")
        raise CouldNotRunError(f"{error}{hint}") from error
