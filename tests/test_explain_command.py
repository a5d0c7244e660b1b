"""The command ``ms2torch-roi explain`` prints and draws the numbers, and says in one line what it cannot do."""

import contextlib
import io
import sys

import numpy as np
import pytest
import torch
from helpers import run_python, without
from matplotlib.colors import to_rgb
from torchvision.ops import roi_align

from ms2torch_roi.cli import main
from ms2torch_roi.explain import explain, plot
from ms2torch_roi.parity import cases

RUN = "import sys\nfrom ms2torch_roi.cli import main\nsys.exit(main(sys.argv[1:]))"
DOCUMENTED = ("--pooled", "3", "3", "--scale", "0.25", "--samples", "2", "--roi", "0", "0.2", "0.3", "0.2", "0.3")


def _output(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["explain", *arguments]) == 0
    return output.getvalue()


def _row(output, name, after=""):
    """Return the cells of the first row of this name after some text."""
    rest = output[output.index(after) :]
    line = next(line for line in rest.splitlines() if line.strip().startswith(name))
    return [cell.strip() for cell in line.strip().removeprefix(name).split("  ") if cell.strip()]


@pytest.mark.parametrize("arguments", [DOCUMENTED, (*DOCUMENTED, "--mode", "0", "--size", "2", "2")])
def test_the_command_fits_a_narrow_pipe(arguments):
    output = _output(*arguments)
    assert max(map(len, output.splitlines())) <= 80
    assert "\x1b" not in output


def test_the_command_shows_the_issues_example():
    output = _output(*DOCUMENTED)
    assert output.startswith("roi (0, 0.2, 0.3, 0.2, 0.3) in image pixels, float32\n")
    assert _row(output, "start", "along x") == ["0.05", "0.05", "-0.45"]
    assert _row(output, "end - start", "along x") == ["0.25", "0", "0"]
    assert _row(output, "size", "along x") == ["0.25", "1, enlarged", "0"]
    assert _row(output, "bin 1 at", "along x") == ["0.15416667, 0.19583334", "0.4666667, 0.6333333", "-0.45, -0.45"]
    assert _row(output, "bin 0 at", "along y") == ["0.09583333, 0.1375", "0.15833333, 0.325", "-0.425, -0.425"]
    assert _row(output, "samples are") == ["up to 0.688 apart", "up to 0.729 apart"]
    assert "outside" not in output
    assert "No call of torchvision is the same as MindSpore's:" in output
    assert "ms2torch_roi.ROIAlign samples" in output


def test_the_command_prints_a_call_that_runs():
    output = _output(*DOCUMENTED, "--mode", "0", "--size", "2", "2")
    assert _row(output, "outside") == ["0 of 36"] * 3
    assert _row(output, "samples are")[0] == "the same"
    names = {"torch": torch, "roi_align": roi_align, "features": torch.tensor([[[[1.0, 2], [3, 4]]]])}
    *_, boxes, call = output.splitlines()
    exec(boxes, names)
    np.testing.assert_array_equal(eval(call, names).numpy(), cases.documented_cases()[0].printed)


def test_the_command_abridges_many_bins_and_samples():
    output = _output("--pooled", "7", "5", "--scale", "0.25", "--samples", "6", "--roi", "0", "3", "4", "90", "95")
    assert [line.split()[1] for line in output.splitlines() if " at " in line] == ["0", "1", "4", "0", "1", "6"]
    assert "..." in output


def test_the_command_takes_numbers_that_look_like_options():
    output = _output("--pooled", "2", "2", "--scale", "-1e-1", "--roi", "-0.0", "-inf", "-1e3", "-.5", "nan")
    assert output.startswith("roi (-0, -inf, -1000, -0.5, nan)")
    assert _row(output, "result")[0] == "0 (not finite)"


def test_the_command_takes_a_scale_as_it_is_written():
    box = ("--pooled", "2", "2", "--roi", "0", "1", "2", "30", "40")
    assert _output(*box, "--scale", "1/16") == _output(*box, "--scale", "0.0625")
    assert _output(*box, "--scale", "-1/3") == _output(*box, "--scale", str(-1 / 3))


def test_the_command_needs_no_framework():
    code = without("torch") + without("mindspore").replace("Absent", "Absent2") + RUN
    result = run_python(code, "explain", *DOCUMENTED)
    assert result.returncode == 0, result.stderr
    assert "up to 0.729 apart" in result.stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--pooled", "0", "3"], "ROIAlign: pooled height and width must be at least 1, got 0 and 3"),
        (["--pooled", "3"], "argument --pooled: expected 2 arguments"),
        (["--mode", "4"], "argument --mode: invalid choice: '4'"),
        (["--mode", "2"], "ROIAlign: roi_end_mode must be 0 or 1, got 2 with rule='cpu'"),
        (["--mode", "graph"], "--mode graph goes with --chip"),
        (["--chip", "999"], "chip must be one of CPU, GPU, 310, "),
        (["--chip", "910B", "--mode", "1"], "--mode is pynative or graph with --chip, got 1"),
        (["--samples", "2.5"], "argument --samples: invalid int value: '2.5'"),
        (["--samples", "99999"], "3 x 3 bins of 99999 x 99999 samples would take about"),
        (["--scale", "quarter"], "argument --scale: 'quarter' is not a number such as 0.0625 or 1/16"),
        (["--scale", "1/0"], "argument --scale: '1/0' is not a number such as 0.0625 or 1/16"),
        (["--scale", "1/2/3"], "argument --scale: '1/2/3' is not a number such as 0.0625 or 1/16"),
        (["--roi", "0", "1", "2", "3"], "argument --roi: expected 5 arguments"),
        (["--roi", "0", "1", "2", "3", "x"], "argument --roi: invalid float value: 'x'"),
        (["--dtype", "float64"], "argument --dtype: invalid choice: 'float64'"),
        (["--size", "0", "4"], "size must be a height and a width of at least 1, got (0, 4)"),
        (["--plot", "boxes.gif"], "argument --plot: 'boxes.gif' does not end in .pdf, .png or .svg"),
        (["--plot", "a\0.png"], "--plot: embedded null byte"),
        (["--plot", f"{'n' * 300}.png"], "--plot: [Errno 36] File name too long"),
        (["--plot", "nowhere/boxes.png"], "--plot: [Errno 2] No such file or directory: 'nowhere/boxes.png'"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(changed, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["explain", *DOCUMENTED, *changed])
    assert ended.value.code == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert message in stderr
    assert stderr.startswith("ms2torch-roi explain: ")


def test_without_matplotlib_a_plot_is_refused_in_one_line_and_the_rest_works(tmp_path):
    code = without("matplotlib") + RUN
    result = run_python(code, "explain", *DOCUMENTED, "--plot", str(tmp_path / "boxes.png"))
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "matplotlib is not installed. Install the extra 'plot' with: pip install 'matplotlib>=" in result.stderr
    assert run_python(code, "explain", *DOCUMENTED).returncode == 0


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_plot_writes_the_format_of_the_suffix(tmp_path, suffix, start):
    file = tmp_path / f"boxes{suffix}"
    assert "up to 0.729 apart" in _output(*DOCUMENTED, "--plot", str(file))
    assert file.read_bytes().startswith(start)
    assert "matplotlib.pyplot" not in sys.modules  # which would look for a display


@pytest.mark.parametrize("size", [(), ("--size", "50", "60")], ids=["any size", "50 x 60"])
@pytest.mark.parametrize("roi", [(1e30, 1e30, 1e30, 1e30), (1e30, 0, 1e30, 5), (-3e38, 1, 3e38, 2), (1, 1, 1e30, 1e30)])
def test_plot_takes_boxes_wherever_they_are(tmp_path, roi, size):
    box = ("--roi", "0", *map(str, roi))
    for dtype in ("float32", "float16"):
        file = tmp_path / f"{dtype}.png"
        _output("--pooled", "3", "3", "--scale", "1.0", "--dtype", dtype, *box, *size, "--plot", str(file))
        assert file.stat().st_size


def _drawn(panel, library):
    """Return the samples drawn for a library, as (x, y) pairs."""
    marker = {"MindSpore": "o", "torchvision": "x"}[library]
    return [line.get_xydata() for line in panel.lines if line.get_marker() == marker]


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("roi", [(0, 0.2, 0.3, 0.2, 0.3), (0, 3, -9, 33, 18)])
def test_plot_shows_every_sample_of_both_libraries_inside_the_panel(roi, mode):
    explained = explain(roi, 3, 2, 0.25, 2, mode, size=(8, 9))
    panels = plot.draw(explained).axes
    assert len(panels) == 2
    for panel, torchvision in zip(panels, explained.torchvision, strict=True):
        for placement in (explained.mindspore, torchvision):
            (drawn,) = _drawn(panel, placement.library)
            x, y = placement.positions
            assert {tuple(pair) for pair in drawn} == {(i, j) for i in x.ravel() for j in y.ravel()}
            (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
            assert top < bottom  # y counts down, as in images
            assert ((drawn > (left, top)) & (drawn < (right, bottom))).all()
        assert torchvision.setting in panel.get_title()
    same = "samples are the same" in panels[0].get_title()
    assert same == (mode == 0)


def test_plot_has_colours_that_the_colour_blind_tell_apart_by_brightness_too():
    panel = plot.draw(explain((0, 4, 4, 40, 30), 3, 3, 0.25)).axes[0]
    colours = {line.get_marker(): to_rgb(line.get_color()) for line in panel.lines if line.get_marker() in ("o", "x")}
    assert len(set(colours.values())) == 2
    blue_weight = [colour[2] - colour[0] for colour in colours.values()]
    assert max(blue_weight) > 0.5
    assert min(blue_weight) < -0.5


def test_plot_says_what_it_cannot_draw():
    panels = plot.draw(explain((0, np.nan, 1, 3, 9), 2, 2, 1.0)).axes
    assert "MindSpore: 0 (not finite), torchvision: undefined, may crash" in panels[1].get_title()
    assert not _drawn(panels[1], "MindSpore")
    huge = plot.draw(explain((0, 1, 1, 1e30, 1e30), 2, 2, 1.0, size=(4, 4))).axes
    assert _drawn(huge[0], "MindSpore")
