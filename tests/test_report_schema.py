"""Reports are input: whatever they hold, `merge` reads it or says in one line which field is wrong."""

import contextlib
import io
import json
import math

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from ms2torch_roi.cli import main
from ms2torch_roi.parity import report
from ms2torch_roi.parity.report import facts
from ms2torch_roi.parity.verdicts import Tolerance, Verdict

VERDICTS = [
    Verdict("passed", "to-torch", "edge", 0, values=9, left_out={"never written": 1}),
    Verdict(
        "failed",
        "to-torch",
        "random",
        1,
        values=9,
        differing=2,
        largest_difference=math.inf,
        first="rois row 0",
        heat_map=[[0.0, 0.5], [math.inf, 1e-7]],
        explanation="The port's values match aligned=True.",
        reproduction="print()",
    ),
    Verdict("no result", "to-mindspore", "edge", 2, problem="the port raised RuntimeError: no memory"),
]
REPORT = facts.as_json(
    report.Run(
        "frameworks",
        {"ms2torch_roi": "1.0", "numpy": "1.26.4", "torch": "2.15.0", "mindspore": "2.10.0"},
        {"torch": "CPU", "mindspore": "CPU"},
        numbers=3,
        settings={"random_cases": 1, "directions": ["to-torch"], "with_mindspore": True},
        tolerance=Tolerance(1e-5, 0.0, 1),
        seed=3,
        shard="1/1",
        origins=[report.Origin("ms2torch-roi check", "2026-11-26T18:07:21+00:00", "Linux")],
        notes=["a note"],
        verdicts=VERDICTS,
        shrunk=VERDICTS[1:2],
        seconds=1.5,
    )
)


def merge(file, *arguments):
    """Return the status, and what is printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["merge", str(file), *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


def places(value, at=()):
    """Yield the way to every value in a report."""
    yield at
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


PLACES = [*places(REPORT)]
# What a report has for those who read it, and is not read back.
DERIVED = {"verdict", "headline", "conclusion", "total", "categories", "passed", "skipped", "groups", "cause"}
READ = [place for place in PLACES if not DERIVED & set(place)]
MISSING = object()


def changed(place, value):
    """Return the report with another value in one place."""
    if not place:
        return value
    copy = json.loads(json.dumps(REPORT))
    *way, last = place
    inner = copy
    for key in way:
        inner = inner[key]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return copy


def test_the_report_as_it_is_is_merged(tmp_path):
    (tmp_path / "1.json").write_text(json.dumps(REPORT))
    status, _, stderr = merge(tmp_path / "1.json")
    assert (status, stderr) == (1, "")


def field_of(place):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")


FREE = ("versions", "devices", "settings", "left_out")  # they have names of any kind
FIELDS = [place for place in READ if place and isinstance(place[-1], str) and not set(FREE) & set(place[:-1])]


@pytest.mark.parametrize("value", [True, MISSING], ids=["wrong", "missing"])
@pytest.mark.parametrize("place", FIELDS, ids=field_of)
def test_a_field_that_is_missing_or_of_another_type_is_named(tmp_path, place, value):
    file = tmp_path / "1.json"
    file.write_text(json.dumps(changed(place, value)))
    status, stdout, stderr = merge(file)
    assert (status, stdout, len(stderr.splitlines())) == (2, "", 1)
    what = "is missing; it must be " if value is MISSING else "is True; it must be "
    said = f"{field_of(place)} {what}" if place != ("format",) else "its format is "
    assert stderr.startswith(f"ms2torch-roi merge: cannot run: {file}: not a report of ms2torch-roi: {said}")


@pytest.mark.parametrize("name", ["atol", "rtol"])
def test_a_tolerance_of_any_size_is_read_back(name):
    report = changed(("tolerance", name), 1e300)
    assert getattr(facts.from_json(report).tolerance, name) == 1e300


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 2**63, 10**400, 1e308, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())
    | st.sampled_from(["infinite", "1/1", "2/1", "frameworks", "\x00", "a\nb", "\ud800", "[bold]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@examples(300)
@given(place=st.sampled_from(PLACES), value=VALUES | st.just(MISSING))
def test_no_mutated_report_ends_in_a_traceback(tmp_path_factory, place, value):
    if place == () and value is MISSING:
        return
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    file = folder / "1.json"
    file.write_text(json.dumps(changed(place, value)))
    outputs = [f"--{name}={folder / 'merged'}.{name}" for name in ("json", "junit", "html")]
    status, _, stderr = merge(file, *outputs)
    assert status in (0, 1, 2)
    assert len(stderr.splitlines()) == (status == 2)
    assert "Traceback" not in stderr


@examples(100)
@given(text=st.binary(max_size=40) | st.just(json.dumps(REPORT).encode()), cut=st.integers(0, 4000))
def test_no_damaged_file_ends_in_a_traceback(tmp_path_factory, text, cut):
    file = tmp_path_factory.getbasetemp() / "damaged.json"
    file.write_bytes(text[:cut])
    status, _, stderr = merge(file)
    assert status == 2 or text[:cut] == json.dumps(REPORT).encode()
    assert len(stderr.splitlines()) == (status == 2)


@pytest.mark.parametrize(
    "name",
    ["\0", "a\0.json", "n" * 300, "n" * 5000, "no\nsuch/file"],
    ids=["NUL", "with NUL", "300 letters", "5000 letters", "two lines"],
)
@pytest.mark.parametrize(
    "command",
    [["merge"], ["replay"], ["check", "--without-mindspore", "--json"], ["merge", __file__, "--html"]],
    ids=["merge", "replay", "--json", "--html"],
)
def test_a_name_that_no_file_can_have_is_refused_in_one_line(capsys, name, command):
    assert main([*command, name]) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, len(stderr.splitlines())) == ("", 1)
