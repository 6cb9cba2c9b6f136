"""The kernel: run by Triton's interpreter on a CPU, compiled for GPUs that are not there, and run on one."""

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which comes with torch for Linux")

INTERPRETED = """
import itertools
import torch
from sslortho.optim.polar_factor.products import emulate_three, multiply
from sslortho.optim.polar_factor.triton_products import multiply_three

generator = torch.Generator().manual_seed(0)

def draw(*shape):
    return torch.randn(shape, generator=generator) / 8

def spread(x):  # the same numbers in a memory order that no library would choose
    room = torch.full((x.shape[0], 2 * x.shape[2], 3 * x.shape[1]), torch.nan)
    view = room[:, ::2, ::3].mT
    view.copy_(x)
    return view

# rows, inner, columns, number; blocks have sides of 64, and 32 of the inner one
SHAPES = [(1, 1, 1, 1), (37, 29, 53, 2), (64, 64, 64, 1), (65, 33, 129, 2), (3, 100, 5, 3)]
for (rows, inner, columns, number), symmetric, order in itertools.product(SHAPES, (0, 1), (0, 1)):
    memory = spread if order else torch.Tensor.contiguous
    a = memory(draw(number, rows, inner))
    b = a.mT if symmetric else memory(draw(number, inner, columns))
    c = draw(number, rows, b.shape[-1])
    c = memory(c + c.mT if symmetric else c)
    options = {"alpha": 1.5, "beta": -0.5, "gamma": 0.25, "symmetric": bool(symmetric)}
    for options in (options | {"c": c}, {"symmetric": bool(symmetric)}):
        result = multiply_three(a, b, **options)
        torch.testing.assert_close(result, emulate_three(a, b, **options), rtol=0, atol=3e-6)
        exact = options | ({"c": c.double()} if "c" in options else {})
        expected = multiply(a.double(), b.double(), **exact)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=3e-6)
        if symmetric:
            assert torch.equal(result, result.mT)

from sslortho.optim.polar_factor.fused_iteration import iterate_fused
from sslortho.optim.polar_factor.iterative import express_schedule
for shape in ((70, 20), (2, 20, 25)):
    matrices = draw(*shape)
    matrices /= matrices.abs().max()
    steps = express_schedule(matrices)
    results = [iterate_fused(matrices, steps, way) for way in (multiply_three, emulate_three)]
    torch.testing.assert_close(*results, rtol=0, atol=2e-5)
print("all right")
"""

COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sslortho.optim.polar_factor.triton_products import LARGE, SMALL, multiply_kernel

names = multiply_kernel.arg_names
for capability, blocks, memory in (
    (80, SMALL, 163), (86, SMALL, 99), (90, SMALL, 227), (90, LARGE, 227), (120, SMALL, 99),
):
    for symmetric in (False, True):
        constants = {"SCALE": 64.0, "SYMMETRIC": symmetric, "ADD_C": True}
        constants |= {name: blocks[name] for name in ("BLOCK", "BLOCK_INNER")}
        constants |= dict.fromkeys(["a_column", "c_column", "out_column"], 1)
        constants["b_row" if symmetric else "b_column"] = 1
        kinds = dict.fromkeys("abc", "*fp32") | {"out": "*fp32"}
        kinds |= dict.fromkeys(["alpha", "beta", "gamma"], "fp32")
        signature = {n: "constexpr" if n in constants else kinds.get(n, "i32") for n in names}
        kernel = triton.compile(
            ASTSource(multiply_kernel, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options={name: blocks[name] for name in ("num_warps", "num_stages")},
        )
        code = kernel.asm["ptx"]
        assert ".f32.f16.f16" in code  # tensor cores, float16 summed in float32
        assert kernel.metadata.shared <= memory * 1024, (capability, kernel.metadata.shared)
        assert kernel.asm["cubin"]
print("all right")
"""


def run(script: str, tmp_path, **environment: str) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), **environment}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all right"


def is_old() -> bool:
    """Whether Triton is older than 3.3, whose interpreter fails with NumPy 2.4 and whose compiler differs."""
    found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("triton"))
    return found is not None and tuple(map(int, found.groups())) < (3, 3)


not_old = pytest.mark.skipif(is_old(), reason="Triton before 3.3, which torch 2.6 has")


@pytest.mark.slow
@not_old
def test_interpreted_it_is_the_emulation(tmp_path):
    run(INTERPRETED, tmp_path, TRITON_INTERPRET="1")


@pytest.mark.slow
@not_old
def test_compiles_for_gpus_that_are_not_there(tmp_path):
    if "triton" not in sys.modules:
        pytest.importorskip("triton.compiler")
    run(COMPILED, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_runs_what_the_interpreter_does(tmp_path):
    lines = 'torch.set_default_device("cuda")\ngenerator = torch.Generator("cuda")'
    run(INTERPRETED.replace("generator = torch.Generator()", lines), tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(200, 64, 576), (3, 512, 4608), (1, 1000, 1030)], ids=str)
def test_gpu_large_tiles(shape, symmetric):
    from sslortho.optim.polar_factor.products import multiply
    from sslortho.optim.polar_factor.triton_products import multiply_three

    a = torch.randn(shape, device="cuda") / shape[-1] ** 0.5
    b = a.mT if symmetric else torch.randn(shape, device="cuda").mT.contiguous()
    expected = multiply(a.double(), b.double())
    result = multiply_three(a, b, symmetric=symmetric)
    torch.testing.assert_close(
        result.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item()
    )
    if symmetric:
        assert torch.equal(result, result.mT)
