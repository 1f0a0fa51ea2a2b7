"""The kernels on torch tensors: what the GPU's tests and benchmark use, tried with the kernels on the host."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from memvp_export.plugins import reference
from memvp_export.plugins.kernels import on_torch

ROOT = Path(__file__).parents[3]


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 16), (2, 3, 16), (2, 3, 16), (5, 16), (5, 16)]
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", on_torch.TYPES)
def test_tensors_of_every_type_pass_through(emulator, dtype) -> None:
    emulator.start()
    actual = on_torch.visual_memory_ffn(emulator.library, *tensors(dtype), 0.5, "gelu")
    expected = reference.visual_memory_ffn(*(t.double().numpy() for t in tensors(dtype)), 0.5, "gelu")
    assert actual.dtype == dtype
    np.testing.assert_allclose(
        actual.double().numpy(), expected, rtol=0.02, atol=0.1 if dtype != torch.float32 else 1e-5
    )


def test_given_output_and_workspace_are_used(emulator) -> None:
    emulator.start()
    made = tensors()
    needed = on_torch.interface.workspace_bytes(
        emulator.library, on_torch.problem_of(made[0], made[2], made[3], 0.5, "relu")
    )
    output, workspace = torch.zeros_like(made[1]), torch.full((needed,), 0xFF, dtype=torch.uint8)
    call = (emulator.library, *made, 0.5, "relu")
    assert on_torch.visual_memory_ffn(*call, output=output, workspace=workspace) is output
    torch.testing.assert_close(output, on_torch.visual_memory_ffn(*call))
    with pytest.raises(RuntimeError, match="workspace is smaller"):
        on_torch.visual_memory_ffn(*call, workspace=workspace[:-16])


@pytest.mark.parametrize("wrong", range(5))
def test_tensors_that_do_not_fit_are_refused(emulator, wrong) -> None:
    for change in (lambda t: t[..., :-1].contiguous(), lambda t: t.half(), lambda t: t.mT.contiguous().mT):
        made = tensors()
        made[wrong] = change(made[wrong])
        with pytest.raises(ValueError, match=r"fit together|contiguous"):
            on_torch.visual_memory_ffn(emulator.library, *made, 0.5, "relu")


def test_the_benchmark_goes_through_without_a_gpu(emulator, objects, tmp_path) -> None:
    command = [sys.executable, "benchmarks/kernel_speed.py", "--dry-run", "--dtype", "float32"]
    library = objects[0].parent / "kernels.so"
    result = tmp_path / "speed.json"
    done = subprocess.run(
        [*command, "--library", str(library), "--output", str(result)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["dry_run"] is True and len(found["cases"]) == 3
    for case in found["cases"]:
        for part in ("operator", "block"):
            assert set(case[f"{part}_us"]) - {"plain"} == {"native", "eager", "compile", "plugin"}
            # Lowerings of one operator: all are right, so that their times are comparable.
            assert max(case[f"{part}_error"].values()) < 1e-5
