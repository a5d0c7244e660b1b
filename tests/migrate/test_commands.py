"""``ms2torch-roi scan`` and ``ms2torch-roi rewrite``, on folders and on bad input."""

import argparse
import json
import subprocess

import pytest
from helpers import run_python, without
from marked import NAMES, SOURCES, expected_sites, read

from ms2torch_roi import how_to_install
from ms2torch_roi.commands import CouldNotRunError, rewrite, scan

MINDSPORE = "from mindspore.ops import operations as P\nop = P.ROIAlign(7, 7, 0.25)\n"
REWRITTEN = MINDSPORE.replace("op = P.", "import ms2torch_roi\nop = ms2torch_roi.")
TORCHVISION = "from torchvision.ops import RoIAlign\nop = RoIAlign(7, 0.25, 2)\n"


def run(command, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def project(tmp_path):
    """A project with a site, and with others in folders that are not its own."""
    for folder in (".venv", ".hidden/inside", "lib/site-packages/other", "node_modules", "package", "__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "head.py").write_text(MINDSPORE)
    (tmp_path / "package" / "broken_but_no_site.py").write_text("def (")
    (tmp_path / "package" / "data.txt").write_text(MINDSPORE)
    (tmp_path / "package" / "link_to_nothing.py").symlink_to("nothing.py")
    return tmp_path


def test_scan_prints_each_site_and_its_status_says_whether_there_is_something_to_do(project, capsys):
    assert run(scan, project) == 0
    assert capsys.readouterr().out == (
        f"{project}/package/head.py:2: mindspore's ROIAlign, to-torch\n"
        "    P.ROIAlign(7, 7, 0.25)\n"
        "    with pooled_height=7, pooled_width=7, spatial_scale=0.25\n"
        "    becomes ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)\n"
        "1 site in 1 file, 0 things for a person to decide.\n"
    )
    (project / "package" / "head.py").write_text(MINDSPORE.replace("0.25", "0.25, 2, 2"))
    assert run(scan, project) == 1
    assert "is left to you: roi_end_mode=2 needs a rule of Ascend's kernels too" in capsys.readouterr().out


def test_scan_finds_graph_mode_in_other_files_where_the_operator_is_called(project, capsys):
    train = project / "train.py"
    train.write_text("import mindspore as ms\nms.set_context(mode=ms.GRAPH_MODE)\n")
    assert run(scan, train) == 0
    assert run(scan, project) == 1
    assert f"{train}:2: needs a person: graph mode" in capsys.readouterr().out


def test_a_config_of_a_registry_is_named_by_both_commands_though_no_call_is_in_its_file(project, capsys):
    config = project / "config.py"
    config.write_text("model = dict(\n    roi_layer=dict(type='RoIAlign', output_size=7))\n")
    assert run(scan, project) == 1
    named = f"{config}:2: needs a person: RoIAlign by its name in a config"
    assert named in capsys.readouterr().out
    assert run(rewrite, project) == 0
    assert named in capsys.readouterr().out


def test_scan_writes_the_facts_for_machines(tmp_path, capsys):
    run(scan, SOURCES, "--json", tmp_path / "facts.json")
    printed = capsys.readouterr().out
    assert run(scan, SOURCES, "--json", "-") == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((tmp_path / "facts.json").read_text())
    assert len(facts["sites"]) == sum(len(expected_sites(read(name))) for name in NAMES)
    assert f"{facts['needs_person']} things for a person to decide." in printed
    [site] = [site for site in facts["sites"] if site["file"].endswith("zoo_mode_argument.py")]
    assert site["arguments"]["spatial_scale"] == {"source": "scale", "values": None}
    assert {name: site[name] for name in ("cell", "line", "library", "operator", "direction", "left")} == {
        "cell": None,
        "line": 10,
        "library": "mindspore",
        "operator": "ROIAlign",
        "direction": "to-torch",
        "left": None,
    }
    assert [(note["kind"], note["needs_person"]) for note in site["notes"]] == [("mode-unknown", True)]


def test_scan_writes_its_facts_to_no_source(tmp_path, capsys):
    source = tmp_path / "model.py"
    source.write_text("from mindspore.ops import ROIAlign\nop = ROIAlign(7, 7, 0.25)\n")
    (tmp_path / "link.json").symlink_to(source)
    named = tmp_path / "script"
    named.write_bytes(source.read_bytes())
    before = source.read_bytes()
    for paths, out in (([source], source), ([tmp_path], tmp_path / "link.json"), ([named], named)):
        with pytest.raises(CouldNotRunError, match="--json: "):
            run(scan, *paths, "--json", out)
        assert source.read_bytes() == named.read_bytes() == before


def test_rewrite_writes_the_files_and_a_second_time_nothing(project, capsys):
    head = project / "package" / "head.py"
    head.chmod(0o754)
    assert run(rewrite, project) == 0
    assert head.read_text() == REWRITTEN
    assert head.stat().st_mode & 0o777 == 0o754
    assert capsys.readouterr().out == "1 site rewritten in 1 file, 0 left.\n"
    assert [path.name for path in head.parent.iterdir() if path.name.startswith(".")] == []
    written = head.stat().st_mtime_ns
    assert run(rewrite, project) == 0
    assert head.stat().st_mtime_ns == written


def test_a_diff_is_what_patch_takes_and_writes_nothing(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    head = project / "package" / "head.py"
    head.write_text(MINDSPORE.rstrip())
    assert run(rewrite, "package", "--diff") == 0
    printed = capsys.readouterr()
    assert head.read_text() == MINDSPORE.rstrip()
    assert printed.err == "1 site to rewrite in 1 file, 0 left.\n"
    subprocess.run(["git", "apply", "-"], input=printed.out, text=True, check=True)
    assert head.read_text() == REWRITTEN.rstrip()


def test_what_is_left_is_named_and_the_rest_is_rewritten(project, capsys):
    head = project / "package" / "head.py"
    head.write_text(MINDSPORE + "two = P.ROIAlign(7, 7, 0.25, 2, 2)\nzero = P.ROIAlign(7, 7, 0.25, 2, 0)\n")
    assert run(rewrite, project) == 1
    assert "zero = ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 0)\n" in head.read_text()
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[0]
        == f"{head}:3: left: P.ROIAlign(7, 7, 0.25, 2, 2): roi_end_mode=2 needs a rule of Ascend's kernels too"
    )
    assert printed[1].startswith(f"{head}:4: needs a person: mode 0: ")
    assert printed[2:] == ["2 sites rewritten in 1 file, 1 left."]


def test_calls_of_both_frameworks_want_a_direction(project):
    (project / "torch_head.py").write_text(TORCHVISION)
    with pytest.raises(
        CouldNotRunError, match=r"both frameworks, 1 to-mindspore and 1 to-torch: choose one with --dir"
    ):
        run(rewrite, project)
    assert run(rewrite, project, "--direction", "to-mindspore") == 0
    assert "ms2torch_roi.RoIAlign(7, 0.25, 2)" in (project / "torch_head.py").read_text()
    assert (project / "package" / "head.py").read_text() == MINDSPORE


@pytest.mark.parametrize(
    ("encoding", "head"),
    [("latin-1", "# -*- coding: latin-1 -*-\n"), ("utf-8-sig", ""), ("utf-8", ""), ("gbk", "# coding: gbk\n")],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_endings_are_kept(tmp_path, encoding, head, newline):
    path = tmp_path / "head.py"
    comment = "# 盒\n" if encoding == "gbk" else "# é\n"
    before, after = (f"{head}{comment}{text}".replace("\n", newline) for text in (MINDSPORE, REWRITTEN))
    path.write_bytes(before.encode(encoding))
    assert run(rewrite, path) == 0
    assert path.read_bytes() == after.encode(encoding)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "head.py").write_text(MINDSPORE)
    (tmp_path / "link.py").symlink_to("head.py")
    assert run(rewrite, tmp_path / "link.py") == 0
    assert (tmp_path / "link.py").is_symlink()
    assert (tmp_path / "head.py").read_text() == REWRITTEN


BAD = {
    "no such path": ("missing.py", None, "missing.py: there is no such file or folder"),
    "no Python": ("folder/data.txt", b"", "folder: there is no Python file and no notebook in it"),
    "syntax error": ("bad.py", b"x = 1\nop = P.ROIAlign(\n", r"bad.py:2: '\(' was never closed"),
    "Python 2": ("bad.py", b"print P.ROIAlign\n", "bad.py:1: Missing parentheses in call to 'print'"),
    "binary": ("bad.py", bytes(range(256)), "bad.py: "),
    "null bytes": ("bad.py", b"x = 1\n\0", "bad.py:.*null bytes"),
    "no UTF-8": ("bad.py", "x = 1\ny = 2\nz = 'é'\n".encode("latin-1"), "bad.py: 'utf-8' codec can't decode byte 0xe9"),
    "no such encoding": ("bad.py", b"# coding: martian\n", "bad.py: unknown encoding"),
    "nested": ("bad.py", b"(" * 5000, "bad.py:1: too many nested parentheses"),
    "a long sum": ("bad.py", b"x = " + b"1 + " * 20000 + b"1", "bad.py: it is nested too deeply"),
    "a longer sum than LibCST can read": ("bad.py", b"x = " + b"1 + " * 400 + b"1", "bad.py: it is nested too deeply"),
    "no notebook": ("bad.ipynb", b"{", "bad.ipynb: Expecting property name"),
}


@pytest.mark.parametrize("command", [scan, rewrite])
@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_in_a_line(tmp_path, command, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(CouldNotRunError, match=message) as caught:
        run(command, path.parent if "folder" in name else path)
    assert "\n" not in str(caught.value)


def test_scan_shows_what_it_found_in_files_beside_one_that_cannot_be_read(project, capsys):
    (project / "bad.py").write_text("P.ROIAlign(")
    with pytest.raises(CouldNotRunError, match=r"bad\.py:1: "):
        run(scan, project)
    assert "becomes ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 1)" in capsys.readouterr().out


def test_rewrite_writes_nothing_unless_it_can_read_and_write_all(project):
    head, other = project / "package" / "head.py", project / "other.py"
    for text, mode, message in (("P.ROIAlign(", 0o644, "other.py:1: "), (MINDSPORE, 0o444, "other.py is read-only")):
        other.write_text(text)
        other.chmod(mode)
        with pytest.raises(CouldNotRunError, match=message):
            run(rewrite, project)
        assert head.read_text() == MINDSPORE
    assert run(rewrite, project, "--diff") == 0


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "head.py"
    path.write_text(MINDSPORE)

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copymode", fail)
    with pytest.raises(CouldNotRunError, match="No space left"):
        run(rewrite, path)
    assert path.read_text() == MINDSPORE
    assert [*tmp_path.iterdir()] == [path]


def test_without_libcst_the_extra_is_named():
    code = (
        f"{without('libcst')}import argparse\nfrom ms2torch_roi.commands import scan, CouldNotRunError\n"
        "try:\n    scan.run(argparse.Namespace(paths=[], json=None))\n"
        "except CouldNotRunError as error:\n    print(error)"
    )
    assert run_python(code).stdout == f"LibCST is not installed. {how_to_install('port')}\n"


def test_neither_framework_is_imported():
    code = (
        "import argparse, sys\nfrom pathlib import Path\nfrom ms2torch_roi.commands import scan\n"
        "scan.run(argparse.Namespace(paths=[Path(sys.argv[1])], json='-'))\n"
        "assert not {'torch', 'mindspore', 'torchvision'} & {*sys.modules}"
    )
    result = run_python(code, str(SOURCES))
    assert result.returncode == 0, result.stderr
