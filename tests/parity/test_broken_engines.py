"""Each mistake that may be made in an engine, its gradient or the operator is caught by the cases made for it."""

import functools

import numpy as np
import pytest
from broken import failed_categories

from ms2torch_roi import engine, sampling
from ms2torch_roi.parity import operators, verdicts
from ms2torch_roi.torch import cpu

pytestmark = pytest.mark.needs_mindspore


def on_other_samples(change):
    """Return an engine's function, given other samples than were placed."""
    return lambda function, values, samples, *rest: function(values, change(samples), *rest)


def _in_float64(pool, features, samples, output, *threads):
    wide = samples._replace(**{name: getattr(samples, name).astype(np.float64) for name in FLOATS})
    output[:] = sampling.pool(features.astype(np.float64), wide, output.shape[2:])


def _gradient_in_float64(gradient, of_output, samples, of_features, *threads):
    wide = samples._replace(**{name: getattr(samples, name).astype(np.float64) for name in FLOATS})
    of_features[:] = sampling.gradient(of_output.astype(np.float64), wide, of_features.shape)


def _last_row_first(gradient, of_output, samples, of_features, *threads):
    gradient(of_output[::-1], samples.of_rows(slice(None, None, -1)), of_features, *threads)


FLOATS = ("start", "bin_size", "divisor", "border")

# How the engine is wrong, forward, and the category that must catch it in both directions.
ENGINE = {
    "width for height in a grid": (
        on_other_samples(lambda samples: samples._replace(grid=samples.grid[:, ::-1])), "edge: grids",
    ),
    "width for height in a border": (
        on_other_samples(lambda samples: samples._replace(border=samples.border[::-1])), "edge: border",
    ),
    "the first image only": (
        on_other_samples(lambda samples: samples._replace(image=np.minimum(samples.image, 0))), "edge: indices",
    ),
    "sums in float64": (_in_float64, "edge: boxes"),
}  # fmt: skip


@pytest.mark.parametrize(("mistake", "caught_by"), ENGINE.values(), ids=ENGINE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_engine_are_caught(monkeypatch, mindspore_results, torchvision_results, mistake, caught_by):
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "pool", functools.partial(mistake, engine.pool))
    assert caught_by in failed_categories(mindspore_results)
    assert caught_by in failed_categories(torchvision_results)


def test_rows_pooled_that_have_no_result_are_caught(monkeypatch, mindspore_results):
    mistake = on_other_samples(lambda samples: samples._replace(image=np.maximum(samples.image, 0)))
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "pool", functools.partial(mistake, engine.pool))
    assert "edge: unwritten rows" in failed_categories(mindspore_results)


def test_the_first_samples_along_a_bin_instead_of_those_inside_are_caught(
    monkeypatch, mindspore_results, torchvision_results
):
    inside_image = sampling.inside_image
    monkeypatch.setattr(sampling, "inside_image", lambda *of: np.sort(inside_image(*of), axis=1)[:, ::-1])
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "_compiled", lambda: None)
    assert "edge: batches" in failed_categories(mindspore_results)
    assert "edge: batches" in failed_categories(torchvision_results)


def _gradient_results(results):
    found = []
    for case, _ in results:
        if case.raises is None and len(case.rois):
            given = operators.some_output_gradient(case)
            found.append((case, given, operators.original_gradient(case, given)))
    return found


@pytest.fixture(scope="module")
def mindspore_gradients(mindspore_results):
    return _gradient_results(mindspore_results)


@pytest.fixture(scope="module")
def torchvision_gradients(torchvision_results):
    return _gradient_results(torchvision_results)


def categories_of_failed_gradients(results):
    judged = [
        verdicts.judge_gradient(case, expected, operators.gradient(case, given, 1), case.category, bound=0.0)
        for case, given, expected in results
    ]
    return {verdict.category for verdict in judged if not verdict.passed}


@pytest.mark.usefixtures("road")
def test_the_gradient_of_the_port_to_torch_fails_nowhere(mindspore_gradients):
    assert categories_of_failed_gradients(mindspore_gradients) == set()


def test_the_gradient_of_the_port_to_mindspore_fails_nowhere(torchvision_gradients):
    assert categories_of_failed_gradients(torchvision_gradients) == set()


# How the engine is wrong, backward, and the category that must catch it in both directions.
GRADIENTS = {
    "width for height in a grid": (ENGINE["width for height in a grid"][0], "edge: grids"),
    "width for height in a border": (ENGINE["width for height in a border"][0], "edge: border"),
    "the first image only": (ENGINE["the first image only"][0], "edge: indices"),
    "sums in float64": (_gradient_in_float64, "edge: boxes"),
    "the last row first": (_last_row_first, "edge: boxes"),
}


@pytest.mark.parametrize(("mistake", "caught_by"), GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_the_gradient_of_the_engine_are_caught(
    monkeypatch, mindspore_gradients, torchvision_gradients, mistake, caught_by
):
    monkeypatch.setattr(cpu, "_is_worth_the_engine", lambda *_: True)
    monkeypatch.setattr(engine, "gradient", functools.partial(mistake, engine.gradient))
    assert caught_by in categories_of_failed_gradients(mindspore_gradients)
    assert caught_by in categories_of_failed_gradients(torchvision_gradients)


# How the kernel that torch.ops.ms2torch_roi calls on a CPU is wrong, and the categories that must catch it.
OPERATOR = {
    "height for width": (lambda h, w, scale, samples, mode: (w, h, scale, samples, mode), "edge: boxes"),
    "the scale left out": (lambda h, w, scale, samples, mode: (h, w, 1.0, samples, mode), "edge: boxes"),
    "a fixed grid": (lambda h, w, scale, samples, mode: (h, w, scale, 2, mode), "edge: grids"),
    "the other mode": (lambda h, w, scale, samples, mode: (h, w, scale, samples, 1 - mode), "edge: boxes"),
}


@pytest.mark.parametrize(("mistake", "caught_by"), OPERATOR.values(), ids=OPERATOR)
def test_mistakes_in_the_operator_are_caught(monkeypatch, mindspore_results, mistake, caught_by):
    pool = cpu.pool
    monkeypatch.setattr(cpu, "pool", lambda features, rois, *given: pool(features, rois, *mistake(*given)))
    assert caught_by in failed_categories(mindspore_results)
