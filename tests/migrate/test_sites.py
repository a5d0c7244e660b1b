"""What the scan finds in sources of every form that real projects have, and that it finds nothing elsewhere."""

import inspect

import pytest
import torchvision
from marked import NAMES, expected_notes, expected_sites, read

import ms2torch_roi
from ms2torch_roi.migrate import sites
from ms2torch_roi.migrate.forms import BY_NAME_ONLY, PORTS, REQUIRED


@pytest.mark.parametrize("name", NAMES)
def test_every_site_is_found_and_nothing_else(name):
    text = read(name)
    found = [
        (site.line, None if site.left else site.becomes, site.left, [note.kind for note in site.notes])
        for site in sites.scan(text).sites
    ]
    expected = expected_sites(text)
    assert [site[:2] + site[3:] for site in found] == [site[:2] + site[3:] for site in expected]
    for (line, _, left, _), (_, _, part, _) in zip(found, expected, strict=True):
        assert (left is None) == (part is None), line
        assert part is None or part in left, line


@pytest.mark.parametrize("name", NAMES)
def test_what_is_around_the_sites_is_found_where_it_is(name):
    text = read(name)
    assert [(note.line, note.kind) for note in sites.scan(text).notes] == expected_notes(text)


def test_sources_of_all_libraries_have_sites_and_those_without_have_none():
    libraries = {site.form.library for name in NAMES for site in sites.scan(read(name)).sites}
    assert libraries == {"mindspore", "torchvision", "detectron2", "mmcv"}
    assert not sites.scan(read("without_sites.py")).sites


def value(expression, before="", inside=""):
    """Return the values that the scan knows for an expression in a method."""
    code = (
        f"from mindspore import ops\n{before}\n"
        f"class Head:\n    def __init__(self, given=5):\n        {inside or 'pass'}\n"
        f"        self.op = ops.ROIAlign({expression}, 7, 0.25)\n"
    )
    [site] = sites.scan(code).sites
    return site.arguments["pooled_height"].values


@pytest.mark.parametrize(
    ("expression", "before", "inside", "values"),
    [
        ("7", "", "", [7]),
        ("-7 + 2 * 3 ** 2 // 2 % 5", "", "", [-7 + 2 * 3**2 // 2 % 5]),
        ("SIZE", "SIZE = 14 // 2", "", [7]),
        ("SIZE", "SIZE: int = 7", "", [7]),
        ("SIZE[1]", "SIZE = (3, 7)", "", [7]),
        ("SIZE['h']", "SIZE = dict(h=7)", "", None),
        ("SIZE['h']", "SIZE = {'h': 7}", "", [7]),
        ("int(SIZE)", "SIZE = 7.0", "", [7]),
        ("self.size", "", "self.size = 7", [7]),
        ("self.size", "", "self.size = self.twice = 7", [7]),
        ("self.size", "", "self.size = 7; self.size = 8", None),
        ("self.size", "", "self.size = 7; self.size += 1", None),
        ("self.size", "", "other.size = 7", None),
        ("SIZE", "SIZE = 7\nSIZE += 1", "", None),
        ("SIZE", "SIZE = 7\nSIZE = 8", "", None),
        ("SIZE", "SIZE = SIZE", "", None),
        ("SIZE", "from sizes import SIZE", "", None),
        ("size", "", "size, other = 7, 8", None),
        ("7 if given else 8", "", "", [7, 8]),
        ("given", "", "", None),  # nobody calls it here
        ("given", "", "Head(7)", [7]),
        ("given", "", "Head(); Head(given=7); Head(7)", [5, 7]),
        ("given", "SIZES = [7]", "Head(*SIZES)", None),
        ("given", "", "Head(7); print(Head)", None),
        ("given", "", "Head(7); super(Head, self).__init__()", [7]),
        ("size", "SIZES = [7, 14]", "[Head(size) for size in SIZES]", None),
        ("given", "SIZES = [7, 14]", "[Head(size) for size in SIZES]", [7, 14]),
        ("1 / 0", "", "", None),
        ("10 ** 10 ** 10", "", "", None),
        ("'7' * 10 ** 9", "", "", None),
        ("unknown", "", "", None),
        ("self.property", "", "", None),
    ],
)
def test_what_is_assigned_once_to_constants_is_known(expression, before, inside, values):
    assert value(expression, before, inside) == values


def test_a_class_attribute_is_known_and_one_that_is_assigned_elsewhere_is_not():
    code = (
        "from mindspore import ops\nclass Head:\n    size = 7\n"
        "    def f(self):\n        ops.ROIAlign(self.size, 7, 0.5)\n"
    )
    assert sites.scan(code).sites[0].arguments["pooled_height"].values == [7]
    code += "    def g(self):\n        self.size = 8\n"
    assert sites.scan(code).sites[0].arguments["pooled_height"].values is None


def test_methods_know_what_their_class_passes():
    code = (
        "from mindspore import ops\n"
        "class Extractor:\n"
        "    def __init__(self):\n"
        "        self.layers = self.build([4, 8], mode=0)\n"
        "    def build(self, strides, mode=1):\n"
        "        return [ops.ROIAlign(7, 7, 1.0 / s, 2, mode) for s in strides]\n"
    )
    [site] = sites.scan(code).sites
    assert site.arguments["spatial_scale"].values == [0.25, 0.125]
    assert site.becomes == "ms2torch_roi.ROIAlign(7, 7, 1.0 / s, 2, 0)"
    assert [note.kind for note in site.notes] == ["mode-0"]


def parameters(function):
    return [
        (name, REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    ]


@pytest.mark.needs_mindspore
def test_the_table_of_calls_is_that_of_the_frameworks_and_the_ports_take_the_same(ms):
    for name, library in (("ROIAlign", ms.ops), ("RoIAlign", torchvision.ops), ("roi_align", torchvision.ops)):
        table = [*PORTS[name].items()]
        assert parameters(getattr(library, name)) == table
        assert parameters(getattr(ms2torch_roi, name))[: len(table)] == table
    multi_scale = [*PORTS["MultiScaleRoIAlign"].items()]
    for original in (torchvision.ops.MultiScaleRoIAlign, ms2torch_roi.MultiScaleRoIAlign):
        assert parameters(original) == multi_scale
        kinds = {name: parameter.kind for name, parameter in inspect.signature(original).parameters.items()}
        assert {name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY} == {*BY_NAME_ONLY}
    from ms2torch_roi.compat import detectron2, mmcv

    assert parameters(detectron2.ROIAlign) == [*PORTS["compat.detectron2.ROIAlign"].items()]
    names = [*PORTS["compat.mmcv.RoIAlign"]]
    assert [name for name, _ in parameters(mmcv.RoIAlign)][: len(names)] == names


@pytest.mark.parametrize(("decorator", "values"), [("", [7]), ("@other\n", None)])
def test_a_decorator_may_pass_other_arguments(decorator, values):
    code = "from mindspore import ops\n{}def make(size):\n    return ops.ROIAlign(size, 7, 0.25)\nmake(7)\n"
    assert sites.scan(code.format(decorator)).sites[0].arguments["pooled_height"].values == values


@pytest.mark.parametrize("star", ["from own.layers import *", "from .layers import *"])
def test_a_star_import_of_others_may_have_replaced_the_name(star):
    [site] = sites.scan(f"from mindspore.ops import *\n{star}\nop = ROIAlign(7, 7, 0.25)\n").sites
    assert "something else" in site.left
    assert not sites.scan(f"{star}\nop = ROIAlign(7, 7, 0.25)\n").sites


def test_a_name_that_is_none_without_its_package_is_the_operator():
    code = "try:\n    from torchvision.ops import roi_align\nexcept ImportError:\n    roi_align = None\n"
    [site] = sites.scan(code + "roi_align(features, boxes, 7, sampling_ratio=2)\n").sites
    assert site.left is None


def test_a_module_may_come_by_a_star_import_too():
    [site] = sites.scan("from torchvision import *\nops.roi_align(features, boxes, 7, sampling_ratio=2)\n").sites
    assert site.left is None


def test_an_import_of_another_module_of_a_library_makes_it_known():
    [site] = sites.scan("import torchvision.models\ntorchvision.ops.RoIAlign(7, 0.25, 2)\n").sites
    assert site.left is None
    assert not sites.scan("import torch.nn\ntorchvision.ops.RoIAlign(7, 0.25, 2)\n").sites


def test_an_annotation_is_no_use():
    assert not sites.scan("from torchvision.ops import RoIAlign\ndef f(pool: RoIAlign) -> RoIAlign: ...\n").sites
