"""One tiny detection head, written in each framework with the same weights: a port trains as its original does."""

import numpy as np
import pytest
import torch
import torchvision

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import operators

pytestmark = pytest.mark.needs_mindspore

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 3, 24, 32)).astype(np.float32)
# Of many cells, of less than one, over the edge, and padding.
ROIS = np.array([[0, 9, 7, 40, 33], [1, 20, 5, 21, 6], [1, -8, 30, 50, 60], [0, 0, 0, 0, 0]], np.float32)
TARGET = RNG.standard_normal((4, 5)).astype(np.float32)
WEIGHTS = {
    "convolution.weight": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5,
    "convolution.bias": RNG.standard_normal(4).astype(np.float32),
    "linear.weight": RNG.standard_normal((5, 4 * 2 * 3)).astype(np.float32) / 5,
    "linear.bias": RNG.standard_normal(5).astype(np.float32),
}
LEARNING_RATE = 0.1
# Convolutions and matrix products add in an order of their own.
BOUND = 1e-5


def train_in_torch(pool, steps=1):
    """Return the loss before each step of gradient descent, and the weights after the last."""

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.linear = torch.nn.Linear(4 * 2 * 3, 5)

        def forward(self, images, rois):
            return self.linear(pool(self.convolution(images), rois).flatten(1))

    head = Head()
    head.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in WEIGHTS.items()})
    optimizer = torch.optim.SGD(head.parameters(), LEARNING_RATE)
    losses = []
    for _ in range(steps):
        loss = ((head(torch.from_numpy(IMAGES), torch.from_numpy(ROIS)) - torch.from_numpy(TARGET)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.numpy() for name, value in head.state_dict().items()}


def train_in_mindspore(make_pool, *, jit=False, steps=1):
    """Return the loss before each step of gradient descent, and the weights after the last."""
    ms = operators.import_mindspore()

    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.convolution = ms.nn.Conv2d(3, 4, 3, pad_mode="pad", padding=1, has_bias=True)
            self.pool = make_pool(ms)
            self.linear = ms.nn.Dense(4 * 2 * 3, 5)

        def construct(self, images, rois):
            return self.linear(self.pool(self.convolution(images), rois).reshape(4, 24))

    head = Head().set_train()
    ms.load_param_into_net(head, {name: ms.Parameter(value, name=name) for name, value in WEIGHTS.items()})
    optimizer = ms.nn.SGD(head.trainable_params(), LEARNING_RATE)

    def loss_of(images, rois, target):
        return ((head(images, rois) - target) ** 2).mean()

    value_and_grad = ms.value_and_grad(loss_of, None, optimizer.parameters)

    def train(images, rois, target):
        loss, gradients = value_and_grad(images, rois, target)
        optimizer(gradients)
        return loss

    step = ms.jit(train) if jit else train
    losses = [float(step(ms.Tensor(IMAGES), ms.Tensor(ROIS), ms.Tensor(TARGET)).asnumpy()) for _ in range(steps)]
    return losses, {name: value.asnumpy() for name, value in head.parameters_dict().items()}


def distance(training, other):
    """Return the largest difference between two losses, or two weights."""
    (losses, weights), (other_losses, other_weights) = training, other
    assert set(weights) == set(other_weights) == set(WEIGHTS)
    assert len(losses) == len(other_losses)
    return max(
        np.abs(np.subtract(losses, other_losses)).max(),
        *(np.abs(weights[name] - other_weights[name]).max() for name in weights),
    )


def test_a_mindspore_model_takes_the_same_step_on_torch():
    # The last row is padding: MindSpore pools it to whatever was in memory, so it must not count.
    original = train_in_mindspore(lambda ms: _without_padding(ms, _in_mode(ms, 1)))
    assert distance(original, train_in_torch(ROIAlign(2, 3, 0.5, 2, 1))) < BOUND

    def naive(features, rois):
        return torchvision.ops.roi_align(features, rois, (2, 3), 0.5, 2, aligned=True)

    assert distance(original, train_in_torch(naive)) > 100 * BOUND


@pytest.mark.parametrize("mode", [0, 1])
def test_20_steps_of_training_are_those_of_mindspore_with_its_gradient(mode):
    original = train_in_mindspore(lambda ms: _without_padding(ms, _in_mode(ms, mode)), steps=20)
    as_mindspore = train_in_torch(ROIAlign(2, 3, 0.5, 2, mode, backward_roi_end_mode=1), steps=20)
    by_default = train_in_torch(ROIAlign(2, 3, 0.5, 2, mode), steps=20)
    assert original[0][-1] < original[0][0] / 2  # it learns
    assert distance(original, as_mindspore) < BOUND
    if mode == 1:
        assert distance(original, by_default) < BOUND
    else:
        assert by_default[0][0] == pytest.approx(original[0][0], abs=BOUND)
        assert np.abs(np.subtract(by_default[0], original[0])).max() > 500 * BOUND


def _without_padding(ms, operator):
    mask = ms.Tensor((np.abs(ROIS[:, [1, 3]]) >= 0.001).any(1).reshape(4, 1, 1, 1).astype(np.float32))

    class Pool(ms.nn.Cell):
        def construct(self, features, rois):
            return ms.ops.where(mask > 0, operator(features, rois), ms.ops.zeros_like(mask))

    return Pool()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_torch_model_takes_the_same_step_on_mindspore(jit, aligned):
    from ms2torch_roi import RoIAlign

    original = train_in_torch(torchvision.ops.RoIAlign((2, 3), 0.5, 2, aligned))
    assert distance(original, train_in_mindspore(lambda _: RoIAlign((2, 3), 0.5, 2, aligned), jit=jit)) < BOUND
    if not jit:
        naive = train_in_mindspore(lambda ms: _in_mode(ms, int(aligned)))
        assert distance(original, naive) > 100 * BOUND


def _in_mode(ms, mode):
    operator = ms.ops.ROIAlign(2, 3, 0.5, 2, mode)
    operator.add_prim_attr("arguments", f"2x3 of the tiny head in mode {mode}")
    return operator


def test_a_torch_model_with_adaptive_grids_takes_the_same_step_on_mindspore():
    from ms2torch_roi import RoIAlign

    original = train_in_torch(torchvision.ops.RoIAlign((2, 3), 0.5, -1, aligned=True))
    assert distance(original, train_in_mindspore(lambda _: RoIAlign((2, 3), 0.5, -1, aligned=True))) < BOUND


def test_a_cell_trains_in_graph_mode():
    from ms2torch_roi import RoIAlign

    ms = operators.import_mindspore()
    original = train_in_torch(torchvision.ops.RoIAlign((2, 3), 0.5, 2, aligned=True))
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        port = step_in_graph_mode(ms, RoIAlign((2, 3), 0.5, 2, aligned=True))
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert distance(original, port) < BOUND


def step_in_graph_mode(ms, pool):
    """As train_in_mindspore, with MindSpore's own training cells."""

    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.convolution = ms.nn.Conv2d(3, 4, 3, pad_mode="pad", padding=1, has_bias=True)
            self.pool = pool
            self.linear = ms.nn.Dense(4 * 2 * 3, 5)

        def construct(self, images, rois, target):
            return ((self.linear(self.pool(self.convolution(images), rois).reshape(4, 24)) - target) ** 2).mean()

    head = Head()
    ms.load_param_into_net(head, {name: ms.Parameter(value, name=name) for name, value in WEIGHTS.items()})
    train = ms.nn.TrainOneStepCell(head, ms.nn.SGD(head.trainable_params(), LEARNING_RATE)).set_train()
    loss = train(ms.Tensor(IMAGES), ms.Tensor(ROIS), ms.Tensor(TARGET))
    return [float(loss.asnumpy())], {name: head.parameters_dict()[name].asnumpy() for name in WEIGHTS}
