"""Notebooks are read as the JSON that they are, and stay what they were but for the sites."""

import json

import pytest

from ms2torch_roi.migrate import files, notebooks, rewriting

CELLS = [
    ("markdown", "# P.ROIAlign(7, 7, 0.25)\n"),
    (
        "code",
        "%matplotlib inline\n!pip install \\\n    mindspore\n"
        "import mindspore as ms\nfrom mindspore.ops import operations as P",
    ),
    ("code", ""),
    ("code", "%%bash\nP.ROIAlign(7, 7, 0.25)"),
    (
        "code",
        "%%time\nscale = 1 / 16\nfiles = !ls\nif files:\n    %timeit 1\n"
        "P.ROIAlign?\npool = P.ROIAlign(7, 7, scale)  # é",
    ),
    ("code", "def head(é):\n    return ms.ops.ROIAlign(7, 7, 0.25, roi_end_mode=2)\n\nx = '%s' % (\n    1\n    % 2)\n"),
]
REWRITTEN = {
    1: CELLS[1][1] + "\nimport ms2torch_roi",
    4: CELLS[4][1].replace("pool = P.ROIAlign", "pool = ms2torch_roi.ROIAlign"),
}


def notebook(cells=CELLS, language="python", as_lists=True):
    def source(text):
        return text.splitlines(keepends=True) if as_lists else text

    made = [{"cell_type": kind, "metadata": {}, "source": source(text)} for kind, text in cells]
    for cell in made:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [{"text": ["é\\n", 'say "P.ROIAlign"']}], "execution_count": None}
    return {"cells": made, "metadata": {"language_info": {"name": language}}, "nbformat": 4, "nbformat_minor": 5}


def read(tmp_path, text):
    path = tmp_path / "pools.ipynb"
    path.write_bytes(text.encode())
    [file], unreadable = files.read_all([path])
    assert not unreadable
    return file


def test_sites_are_found_by_cell_and_line_with_names_of_earlier_cells(tmp_path):
    file = read(tmp_path, json.dumps(notebook()))
    found = [(*file.place(site.line), site.becomes, site.left) for site in file.found.sites]
    assert found == [
        (5, 7, "ms2torch_roi.ROIAlign(7, 7, 0.0625, 2, 1)", None),
        (6, 2, "ms2torch_roi.ROIAlign(7, 7, 0.25, 2, 2)", "roi_end_mode=2 needs a rule of Ascend's kernels too"),
    ]


TIMED = (
    "from mindspore.ops import operations as P\n"
    "%time pool = P.ROIAlign(7, 7, 0.25)\n"
    "%timeit   P.ROIAlign(7, 7, 0.5)(x, y)\n"
    "pool = %time P.ROIAlign(7, 7, 1.0)\n"
    "if pool:\n    %time pool = P.ROIAlign(7, 7, 2.0)\n"
    "%timeit -n 1 P.ROIAlign(7, 7, 4.0)\n"
    "%time for x in y: P.ROIAlign(7, 7, 8.0)\n"
)


def test_what_is_timed_in_a_line_is_python(tmp_path):
    file = read(tmp_path, json.dumps(notebook([("code", TIMED)])))
    assert [file.place(site.line) for site in file.found.sites] == [(1, line) for line in (2, 3, 4, 6)]
    (written,) = json.loads(file.rewritten(file.found.sites))["cells"]
    kept, changed = "".join(written["source"]).splitlines(), TIMED.splitlines()
    changed[1:6] = [line.replace("P.ROIAlign", "ms2torch_roi.ROIAlign") for line in changed[1:6]]
    assert kept == [changed[0], "import ms2torch_roi", *changed[1:]]


@pytest.mark.parametrize(
    "style",
    [{"indent": 1}, {"indent": 4, "ensure_ascii": False}, {}, {"separators": (",", ":")}, {"indent": "\t"}],
    ids=str,
)
@pytest.mark.parametrize("as_lists", [True, False])
@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_all_else_is_kept_byte_for_byte(tmp_path, style, as_lists, end):
    before = json.dumps(notebook(as_lists=as_lists), **style) + end
    cells = [(kind, REWRITTEN.get(number, text)) for number, (kind, text) in enumerate(CELLS)]
    after = json.dumps(notebook(cells, as_lists=as_lists), **style) + end
    file = read(tmp_path, before)
    text = file.rewritten(rewriting.rewritable(file.found))
    assert text == after
    again = read(tmp_path, text)
    assert not rewriting.rewritable(again.found)


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_cells_are_told_apart_however_they_end(tmp_path, end):
    head = f"import mindspore as ms{end}"
    cells = [("code", head), ("code", f"ms.ops.ROIAlign(7, 7, 0.25){end}")]
    file = read(tmp_path, json.dumps(notebook(cells)))
    assert [file.place(site.line) for site in file.found.sites] == [(2, 1)]
    after = json.loads(file.rewritten(rewriting.rewritable(file.found)))
    newline = "\n" if end in ("", "\n\n") else end
    assert ["".join(cell["source"]) for cell in after["cells"]] == [
        f"import mindspore as ms{newline}import ms2torch_roi{end}",
        f"ms2torch_roi.ROIAlign(7, 7, 0.25){end}",
    ]


def test_lines_that_do_not_change_keep_their_own_spelling(tmp_path):
    before = (
        r'{"cells": [{"cell_type": "code", "source": ["from mindspore.ops import ROIAlign\n",'
        "\n   "
        r'"x = \"\u00e9\u002f\/é\"\n", "op = ROIAlign(7, 7, 0.25)"]}], "metadata": {}}'
    )
    file = read(tmp_path, before)
    after = file.rewritten(rewriting.rewritable(file.found))
    assert r'"x = \"\u00e9\u002f\/é\"\n"' in after
    assert json.loads(after)["cells"][0]["source"] == [
        "from mindspore.ops import ROIAlign\n",
        "import ms2torch_roi\n",
        'x = "é//é"\n',
        "op = ms2torch_roi.ROIAlign(7, 7, 0.25)",
    ]


def test_notebooks_of_other_languages_have_no_sites(tmp_path):
    assert not read(tmp_path, json.dumps(notebook(language="julia"))).found.sites


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"cells": [', "Expecting value"),
        ("[]", "no notebook of format 4"),
        ("{}", "no notebook of format 4"),
        ('{"worksheets": []}', "no notebook of format 4"),
        ('{"cells": 3}', "no notebook of format 4"),
        ('{"cells": [3]}', "no notebook of format 4"),
        ('{"cells": [{"cell_type": 3, "source": "x"}]}', "no notebook of format 4"),
        ('{"cells": [{"cell_type": "code", "source": 3}]}', "no notebook of format 4"),
        ('{"cells": [{"cell_type": "code", "source": [3]}]}', "no notebook of format 4"),
        ('{"cells": [], "metadata": 3}', "no notebook of format 4"),
        ('{"a": "b", "a": "c", "cells": []}', "stands twice"),
    ],
)
def test_what_is_no_notebook_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        notebooks.read(text)


def test_a_syntax_error_is_placed_in_its_cell(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(notebook([("code", "x = 1\ny = 2"), ("code", "z = 3\ndef f(:\n    pass")])))
    read, [message] = files.read_all([path])
    assert not read
    assert message == f"{path}:cell 2:2: invalid syntax"
