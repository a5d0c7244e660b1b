"""ROIAlign in two processes: data parallel models, and DTensors of sharded rois and channels."""

import datetime

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from helpers import Head
from test_torch_training import IMAGES, ROIS, gradients_of

from ms2torch_roi import ROIAlign

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")

PLACEMENTS = ["rois", "channels", "nothing"]


def run_in_two_processes(function, tmp_path, *arguments):
    """Run ``function(rank, *arguments)`` in two processes that can talk, and return what they return."""
    torch.multiprocessing.spawn(_start, (function, str(tmp_path), *arguments), nprocs=2)
    return [torch.load(tmp_path / str(rank)) for rank in range(2)]


def _start(rank, function, path, *arguments):
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=60)  # rather than for half an hour, if the other process has failed
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2, timeout=wait)
    torch.save(function(rank, *arguments), f"{path}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _train_data_parallel(rank):
    """Each process has an image of its own, and its rois."""
    head = torch.nn.parallel.DistributedDataParallel(Head())
    rois = ROIS[ROIS[:, 0] == rank] * torch.tensor([0, 1, 1, 1, 1])
    return list(gradients_of(head, lambda head: head(IMAGES[rank : rank + 1], rois)).values())


def test_data_parallel_training_has_the_gradient_of_one_process(tmp_path):
    expected = gradients_of(Head(), lambda head: head(IMAGES, ROIS)).values()
    for gradients in run_in_two_processes(_train_data_parallel, tmp_path):
        for actual, value in zip(gradients, expected, strict=True):
            # DDP takes the mean over processes of what the loss here is a sum of; both sum in float32.
            torch.testing.assert_close(2 * actual, value, rtol=1e-5, atol=1e-5)


OP = ROIAlign(3, 2, 0.25)
SHARDED_ROIS = torch.cat((ROIS, ROIS[:1] + torch.tensor([1, 2, 3, 4, 5])))  # 5: three on one rank, two on the other
WEIGHTS = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 4, 3, 2)).astype(np.float32))
FEATURES = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 4, 20, 30)).astype(np.float32))


def _pool_sharded(rank, sharded):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    features = distribute_tensor(FEATURES, mesh, [Shard(1) if sharded == "channels" else Replicate()]).requires_grad_()
    rois = distribute_tensor(SHARDED_ROIS, mesh, [Shard(0) if sharded == "rois" else Replicate()])
    output = OP(features, rois)
    (output * distribute_tensor(WEIGHTS, mesh, output.placements)).sum().backward()
    assert output.stride() == torch.empty(output.shape).stride()
    return output.to_local(), output.full_tensor(), features.grad.full_tensor()


@pytest.mark.parametrize("sharded", PLACEMENTS)
def test_dtensors_have_the_bits_of_one_process(sharded, tmp_path):
    features = FEATURES.clone().requires_grad_()
    expected = OP(features, SHARDED_ROIS)
    (expected * WEIGHTS).sum().backward()
    results = run_in_two_processes(_pool_sharded, tmp_path, sharded)
    shapes = {"rois": [(3, 4, 3, 2), (2, 4, 3, 2)], "channels": [(5, 2, 3, 2)] * 2, "nothing": [(5, 4, 3, 2)] * 2}
    assert [tuple(local.shape) for local, _, _ in results] == shapes[sharded]
    for _, output, gradient in results:
        assert torch.equal(output, expected)
        if sharded == "rois":  # the sum over ranks has an order of its own
            torch.testing.assert_close(gradient, features.grad, rtol=0, atol=1e-6)
        else:
            assert torch.equal(gradient, features.grad)


def _refused(rank):
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    mesh, other = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (2, 1))
    replicated = distribute_tensor(ROIS, mesh, [Replicate()])
    calls = [
        (FEATURES, replicated),
        (distribute_tensor(FEATURES, other, [Replicate()] * 2), replicated),
        (FEATURES.numpy(), replicated),
    ]
    return [_message_of_value_error(*call) for call in calls]


def _message_of_value_error(features, rois):
    with pytest.raises(ValueError, match="ROIAlign: ") as caught:
        OP(features, rois)
    return str(caught.value)


def test_dtensors_beside_others_are_refused(tmp_path):
    for first, second, third in run_in_two_processes(_refused, tmp_path):
        assert "must both be DTensors or neither, but features is a Tensor" in first
        assert "features are on the mesh" in second
        assert "must both be DTensors or neither, but features is a ndarray" in third


def _redistributed(rank):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    outputs = []
    for of_features, of_rois, features in (
        (Shard(0), Replicate(), FEATURES),  # by image
        (Shard(1), Shard(0), FEATURES),
        (Shard(3), Shard(1), FEATURES),
        (Shard(1), Replicate(), FEATURES[:, :1]),  # one channel, on one of two ranks
    ):
        features = distribute_tensor(features, mesh, [of_features]).requires_grad_()
        output = OP(features, distribute_tensor(SHARDED_ROIS, mesh, [of_rois]))
        output.sum().backward()
        outputs += [output.full_tensor(), features.grad.full_tensor()]
    return outputs


def test_dtensors_placed_otherwise_are_redistributed(tmp_path):
    expected = []
    for features in (FEATURES, FEATURES, FEATURES, FEATURES[:, :1]):
        features = features.clone().requires_grad_()
        output = OP(features, SHARDED_ROIS)
        output.sum().backward()
        expected += [output, features.grad]
    for results in run_in_two_processes(_redistributed, tmp_path):
        for result, value in zip(results, expected, strict=True):
            torch.testing.assert_close(result, value, rtol=0, atol=1e-5 if result.dim() == 4 else 0)


def _pool_gathered_and_compiled(rank):
    from torch.distributed._functional_collectives import all_gather_tensor
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    gathered = OP(FEATURES, all_gather_tensor(SHARDED_ROIS[:2], 0, mesh))
    features, rois = distribute_tensor(FEATURES, mesh, [Replicate()]), distribute_tensor(SHARDED_ROIS, mesh, [Shard(0)])
    compiled = torch.compile(OP, fullgraph=True, backend="aot_eager")(features, rois)
    return gathered, compiled.full_tensor()


def test_rois_of_a_collective_and_compiled_dtensors(tmp_path):
    for gathered, compiled in run_in_two_processes(_pool_gathered_and_compiled, tmp_path):
        assert torch.equal(gathered, OP(FEATURES, SHARDED_ROIS[[0, 1, 0, 1]]))
        assert torch.equal(compiled, OP(FEATURES, SHARDED_ROIS))
