"""What the kernels of a GPU are compiled to, for an H100, where there is none: it takes the compiler only."""

import itertools
import re
import subprocess
import types

import pytest
import torch

from ms2torch_roi import rules

pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU compiles them for itself")

from ms2torch_roi.torch import cuda  # noqa: E402 (it takes triton)


class Compiled:
    """A kernel that is compiled for an H100 where it would be launched."""

    def __init__(self, kernel, programs):
        self.kernel, self.programs = kernel, programs

    def __getitem__(self, tasks):
        def compile_(*arguments, **constants):
            dtypes = [value.dtype if isinstance(value, torch.Tensor) else value for value in arguments]
            compiled = self.kernel.warmup(*dtypes, grid=tasks, **constants)
            self.programs.append((self.kernel.fn.__name__, compiled))

        return compile_


@pytest.fixture
def programs(monkeypatch):
    """Return the names of the kernels that are launched from now on, and what they are compiled to: they do not run."""
    import triton
    from triton.backends.compiler import GPUTarget

    programs = []
    for name in ("_pool", "_list_terms", "_transpose", "_add_terms", "_add_tiles"):
        monkeypatch.setattr(cuda, name, Compiled(getattr(cuda, name), programs))
    driver = types.SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    return programs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiled_pool_and_gradient_fuse_and_approximate_nothing(monkeypatch, programs, dtype):
    features, rois = torch.zeros(2, 32, 9, 9, dtype=dtype), torch.zeros(3, 5, dtype=dtype)
    monkeypatch.setattr(cuda, "_ENOUGH_TASKS", 1)
    for layout, sample_num in ((torch.contiguous_format, 2), (torch.channels_last, 3), (torch.contiguous_format, 0)):
        arguments = rules.TORCHVISION[1], (7, 7), 0.25, sample_num
        output = cuda.pool(features.contiguous(memory_format=layout), rois, *arguments)
        if sample_num != 2:
            cuda.gradient(output, rois, arguments[0], features.shape, *arguments[2:])
    names = [name for name, _ in programs]
    assert names == ["_pool", "_pool", "_list_terms", "_transpose", "_add_terms", "_pool", "_add_tiles"]
    for name, compiled in programs:
        program = compiled.asm["ptx"]
        # Nor takes it subnormal numbers for 0 (ftz).
        assert not re.findall(r".*(?:fma\.|div\.full|div\.approx|rcp\.|\.ftz).*", program), name
        assert ("div.rn.f32" in program) == (name != "_transpose")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiled_kernels_keep_everything_in_registers(programs, tmp_path, dtype):
    disassembler = pytest.importorskip("triton.knobs").nvidia.cuobjdump.path
    features, rois = torch.zeros(2, 256, 50, 76, dtype=dtype), torch.zeros(1000, 5, dtype=dtype)
    for sample_num, pooled, layout in itertools.product(
        (0, 1, 2), (7, 14), (torch.contiguous_format, torch.channels_last)
    ):
        of_box = rules.MINDSPORE[1], (pooled, pooled), 1 / 16, sample_num
        output = cuda.pool(features.contiguous(memory_format=layout), rois, *of_box)
    for sample_num in (0, 2):
        cuda.gradient(output, rois, rules.MINDSPORE[1], features.shape, 1 / 16, sample_num)
    assert [name for name, _ in programs] == ["_pool"] * 12 + ["_add_tiles", "_list_terms", "_transpose", "_add_terms"]
    for name, program in programs:
        (tmp_path / "cubin").write_bytes(program.asm["cubin"])
        command = [disassembler, "--dump-resource-usage", tmp_path / "cubin"]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # What registers cannot hold is on the stack, a hundred times slower.
        assert re.findall(r"STACK:(\d+)", usage) == ["0"], (name, usage)
