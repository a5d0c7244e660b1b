"""Rewriting changes the sites and nothing else, whatever the source looks like."""

import pytest
from marked import NAMES, expected_sites, read

from ms2torch_roi.migrate import sites
from ms2torch_roi.migrate.rewriting import rewrite

IMPORT = "import ms2torch_roi\n"
MINDSPORE = "from mindspore.ops import operations as P\n"
SITE = "op = P.ROIAlign(7, 7, 0.25)\n"
REWRITTEN = "op = ms2torch_roi.ROIAlign(7, 7, 0.25)\n"


@pytest.mark.parametrize("name", NAMES)
def test_it_adds_an_import_and_changes_sites(name):
    text = read(name)
    becomes = {line for line, becomes, _, _ in expected_sites(text) if becomes}
    before, after = text.splitlines(), rewrite(text).splitlines()
    if becomes:
        imports = [line for line in after if line.startswith("import ms2torch_roi")]
        assert imports
        place = after.index(imports[0])
        assert after[place : place + len(imports)] == imports
        gap = len(after) - len(before) - len(imports)  # an empty line before them, where they are the first
        assert after[place - gap : place] == [""] * gap
        del after[place - gap : place + len(imports)]
    assert len(before) == len(after)
    changed = {line for line, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new}
    assert changed <= becomes
    for line in becomes - changed:
        assert any(alias in before[line - 1] for alias in ("roi(", "self.operator(", "Alias("))  # calls by an alias


@pytest.mark.parametrize("name", NAMES)
def test_it_is_done_at_once(name):
    once = rewrite(read(name))
    compile(once, name, "exec")
    assert rewrite(once) == once
    assert all(site.left for site in sites.scan(once).sites)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MINDSPORE + SITE, MINDSPORE + IMPORT + REWRITTEN),
        (
            "# Comment.\n@staticmethod\n@property\ndef f():\n    " + MINDSPORE + "    " + SITE,
            "# Comment.\n" + IMPORT + "\n@staticmethod\n@property\ndef f():\n    " + MINDSPORE + "    " + REWRITTEN,
        ),
        ('"""Doc."""\n' + MINDSPORE + "x = 1\n" + SITE, '"""Doc."""\n' + MINDSPORE + IMPORT + "x = 1\n" + REWRITTEN),
        (
            "#!/usr/bin/python\n# Comment.\nif x:\n    " + MINDSPORE + SITE,
            "#!/usr/bin/python\n# Comment.\n" + IMPORT + "\nif x:\n    " + MINDSPORE + REWRITTEN,
        ),
        (
            '"""Doc."""\nfrom __future__ import annotations\ntry:\n    ' + MINDSPORE + "finally:\n    pass\n" + SITE,
            '"""Doc."""\nfrom __future__ import annotations\n\n'
            + IMPORT
            + "try:\n    "
            + MINDSPORE
            + "finally:\n    pass\n"
            + REWRITTEN,
        ),
        (
            '"""Doc."""\ndef f():\n    ' + MINDSPORE + "    " + SITE,
            '"""Doc."""\n\n' + IMPORT + "def f():\n    " + MINDSPORE + "    " + REWRITTEN,
        ),
        (
            "from mindspore.ops import (  # operators\n    operations as P,\n)  # end\n" + SITE,
            "from mindspore.ops import (  # operators\n    operations as P,\n)  # end\n" + IMPORT + REWRITTEN,
        ),
        (MINDSPORE + "import os; x = 1\n" + SITE, MINDSPORE + IMPORT + "import os; x = 1\n" + REWRITTEN),
        (MINDSPORE + "\n\n" + SITE, MINDSPORE + IMPORT + "\n\n" + REWRITTEN),
        (IMPORT + MINDSPORE + SITE, IMPORT + MINDSPORE + REWRITTEN),
        (MINDSPORE + "import ms2torch_roi.params\n" + SITE, MINDSPORE + "import ms2torch_roi.params\n" + REWRITTEN),
        (
            MINDSPORE + "import ms2torch_roi as roi\n" + SITE,
            MINDSPORE + "import ms2torch_roi as roi\n" + IMPORT + REWRITTEN,
        ),
        (MINDSPORE + SITE.rstrip(), MINDSPORE + IMPORT + REWRITTEN.rstrip()),
        (MINDSPORE + "def f():\n\t" + SITE, MINDSPORE + IMPORT + "def f():\n\t" + REWRITTEN),
        (MINDSPORE + "\f\n" + SITE, MINDSPORE + IMPORT + "\f\n" + REWRITTEN),
        (MINDSPORE + "\f" + SITE, MINDSPORE + IMPORT + "\f" + REWRITTEN),
        (MINDSPORE + "\f\f" + SITE + "\f" + SITE, MINDSPORE + IMPORT + "\f\f" + REWRITTEN + "\f" + REWRITTEN),
        ("\f" + MINDSPORE + SITE, "\f" + MINDSPORE + IMPORT + REWRITTEN),
        (
            MINDSPORE + "s = '''\n\fx'''\n\fdef f(op=P.ROIAlign(7, 7, 0.25)):\n\f    " + SITE,
            MINDSPORE + IMPORT + "s = '''\n\fx'''\n\fdef f(op=ms2torch_roi.ROIAlign(7, 7, 0.25)):\n\f    " + REWRITTEN,
        ),
        (
            MINDSPORE + "s = 'é\u2028𝄞'; " + SITE,
            MINDSPORE + IMPORT + "s = 'é\u2028𝄞'; " + REWRITTEN,
        ),
        (
            MINDSPORE + "op = P . ROIAlign ( 7,7, 0.25 , )# x\n",
            MINDSPORE + IMPORT + "op = ms2torch_roi.ROIAlign ( 7,7, 0.25 , )# x\n",
        ),
        (
            MINDSPORE + "op = P.\\\n    ROIAlign(7, 7, 0.25)\n",
            MINDSPORE + IMPORT + "op = ms2torch_roi.ROIAlign(7, 7, 0.25)\n",
        ),
        (
            MINDSPORE + "op = (P.ROIAlign)(7, 7, 0.25)\n",
            MINDSPORE + IMPORT + "op = (ms2torch_roi.ROIAlign)(7, 7, 0.25)\n",
        ),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_it_keeps_all_else_and_imports_the_package_after_the_first_imports(before, after, newline):
    before, after = (text.replace("\n", newline) for text in (before, after))
    assert rewrite(before) == after
    assert rewrite(after) == after


MMCV = "from mmcv.ops import RoIAlign, roi_align\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("7, 0.25, 2, 'avg', False", "7, 0.25, 2, aligned=False"),
        ("7, 0.25, 2, 'avg'", "7, 0.25, 2, aligned=True"),
        ("7, 0.25, 2, 'avg',", "7, 0.25, 2, aligned=True,"),
        ("7, 0.25, 2, pool_mode='avg', aligned=False", "7, 0.25, 2, aligned=False"),
        ("7", "7, sampling_ratio=0, aligned=True"),
        (
            "\n    out_size=7,  # bins\n    sample_num=2,\n",
            "\n    output_size=7,  # bins\n    sampling_ratio=2, aligned=True,\n",
        ),
        ("7,  # bins\n .25, 2,  # samples\n 'avg',\n True", "7,  # bins\n .25, 2,  # samples\n aligned=True"),
        (
            "7, .25, 2, 'avg'  # mode\n ,  # or max\n # as in v2\n True",
            "7, .25, 2,   # mode\n   # or max\n # as in v2\n aligned=True",
        ),
        ("7, .25, 2,  # samples\n 'avg',  # mode\n", "7, .25, 2,  # samples\n aligned=True,  # mode\n"),
        ("7, aligned=x,  # moved\n pool_mode='avg'", "7, aligned=x,  # moved\n sampling_ratio=0"),
        ("7, .25, 2, aligned=x,  # moved\n pool_mode='avg'  # mode\n", "7, .25, 2, aligned=x,  # moved\n   # mode\n"),
        ("7, .25, 2, aligned=x,  # moved\n pool_mode='avg',  # mode\n", "7, .25, 2, aligned=x,  # moved\n   # mode\n"),
        ("7, .25, 2, aligned=x,\n pool_mode='avg',\n", "7, .25, 2, aligned=x,\n"),
        (
            "pool_mode='avg', output_size=7",
            "output_size=7, sampling_ratio=0, aligned=True",
        ),
        (
            "output_size=7, pool_mode='avg', aligned=x, spatial_scale=s, sampling_ratio=n",
            "output_size=7, aligned=x, spatial_scale=s, sampling_ratio=n",
        ),
        (
            "roi_align(x, y, 7, 0.25, 2).shape[0], 0.25, 2",
            "ms2torch_roi.roi_align(x, y, 7, 0.25, 2, aligned=True).shape[0], 0.25, 2, aligned=True",
        ),
    ],
)
def test_arguments_of_mmcvs_function_become_those_of_the_port(before, after):
    becomes = f"{MMCV}{IMPORT}x = ms2torch_roi.roi_align(x, y, {after})\n"
    assert rewrite(f"{MMCV}x = roi_align(x, y, {before})\n") == becomes


@pytest.mark.parametrize(
    ("library", "name", "module"),
    [
        ("mmcv.ops", "RoIAlign", "ms2torch_roi.compat.mmcv"),
        ("detectron2.layers", "ROIAlign", "ms2torch_roi.compat.detectron2"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    ["7, 0.25, 2", "*size, sampling_ratio=2, **others", "output_size=7, spatial_scale=1.0, sampling_ratio=0"],
)
def test_classes_of_mmcv_and_detectron2_keep_their_arguments_and_their_module_is_imported(
    library, name, module, arguments
):
    before = f"from {library} import {name}\n"
    after = f"{before}import {module}\nop = {module}.{name}({arguments})\n"
    assert rewrite(f"{before}op = {name}({arguments})\n") == after
    assert rewrite(after) == after
    # The package alone does not have the module.
    assert rewrite(f"{before}{IMPORT}op = {name}({arguments})\n") == (
        f"{before}{IMPORT}import {module}\nop = {module}.{name}({arguments})\n"
    )


def test_one_direction_leaves_the_calls_of_the_other():
    torchvision = "from torchvision.ops import RoIAlign\n"
    text = MINDSPORE + torchvision + SITE + "pool = RoIAlign(7, 0.25, 2, aligned=True)\n"
    to_torch = MINDSPORE + torchvision + IMPORT + REWRITTEN + "pool = RoIAlign(7, 0.25, 2, aligned=True)\n"
    to_mindspore = MINDSPORE + torchvision + IMPORT + SITE + "pool = ms2torch_roi.RoIAlign(7, 0.25, 2, aligned=True)\n"
    assert rewrite(text, "to-torch") == to_torch
    assert rewrite(text, "to-mindspore") == to_mindspore
    assert rewrite(to_torch, "to-mindspore") == rewrite(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MINDSPORE + SITE + IMPORT, MINDSPORE + IMPORT + REWRITTEN + IMPORT),
        (MINDSPORE + SITE.rstrip() + "; " + IMPORT, MINDSPORE + IMPORT + REWRITTEN.rstrip() + "; " + IMPORT),
        (MINDSPORE + "def f():\n    " + SITE + IMPORT, MINDSPORE + IMPORT + "def f():\n    " + REWRITTEN + IMPORT),
        (
            MINDSPORE + "x = 1\n" + IMPORT + SITE + "def f():\n    " + SITE,
            MINDSPORE + "x = 1\n" + IMPORT + REWRITTEN + "def f():\n    " + REWRITTEN,
        ),
    ],
)
def test_the_package_is_imported_before_it_is_used(before, after):
    assert rewrite(before) == after
    assert rewrite(after) == after


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MINDSPORE + "ms2torch_roi = 3\n" + SITE, 2),
        (MINDSPORE + SITE + "ms2torch_roi = 3\n", 3),
        (MINDSPORE + "import other as ms2torch_roi\n" + SITE, 2),
        (MINDSPORE + "from . import ms2torch_roi\n" + SITE, 2),
        (MINDSPORE + "def f(ms2torch_roi):\n    " + SITE, 2),
        (MINDSPORE + "def f():\n    " + SITE + "    " + IMPORT, 4),
        (MINDSPORE + "for ms2torch_roi in ():\n    " + SITE, 2),
        (MINDSPORE + "try:\n    " + IMPORT + "except ImportError:\n    ms2torch_roi = None\n" + SITE, 5),
        (MINDSPORE + "ms2torch_roi = P.ROIAlign\nop = ms2torch_roi(7, 7, 0.25)\n", 2),
    ],
)
def test_a_call_is_left_where_the_name_of_the_package_is_another(text, line):
    assert rewrite(text) == text
    assert all(site.left.endswith("is another name there") for site in sites.scan(text).sites)
    assert f"line {line}: ms2torch_roi" in sites.scan(text).sites[0].left


def test_a_call_is_left_where_a_comment_is_within_its_name():
    text = MINDSPORE + "op = (P.  # of MindSpore\n    ROIAlign)(7, 7, 0.25)\n"
    assert rewrite(text) == text
    assert [site.left for site in sites.scan(text).sites] == ["a comment is within its name"]


def test_a_name_of_the_package_in_another_function_leaves_no_call():
    text = MINDSPORE + "def f(ms2torch_roi): ...\n"
    assert rewrite(text + SITE) == text.replace(MINDSPORE, MINDSPORE + IMPORT) + REWRITTEN
