"""The kernels on the GPU that is here, against the operator's formula in float64."""

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from memvp_export.plugins.kernels import interface

if TYPE_CHECKING:
    import torch

GUARD = 4096  # bytes
# Of the looked-up part, which rounded keys and activations make, and of the output, which is rounded at the end.
LIMITS = {"float32": (2e-6, 1e-7), "float16": (1e-3, 2**-11), "bfloat16": (8e-3, 2**-8)}
SCALE = 0.1


@dataclass(frozen=True)
class Call:
    """One call of the operator on random tensors: B, T, d, v, p and samples of visual."""

    sizes: tuple[int, int, int, int, int]
    dtype: str = "float16"
    activation: str = "silu"
    shared: bool = False
    offset: int = 0  # elements that every tensor begins after an aligned address

    def tensors(self) -> "list[torch.Tensor]":
        import torch

        batch, tokens, width, rows, table_rows = self.sizes
        generator = torch.Generator("cuda").manual_seed(width + table_rows)
        visual = (1 if self.shared else batch, rows, width)
        unit = width**-0.5
        shapes = [((batch, tokens, width), 1.0)] * 2 + [(visual, 2 * unit), ((table_rows, width), 2 * unit)]
        shapes.append(((table_rows, width), 1.0))
        made = [size * torch.randn(shape, device="cuda", generator=generator) for shape, size in shapes]
        return [guarded(tensor.to(getattr(torch, self.dtype)), self.offset) for tensor in made]


def guarded(values: "torch.Tensor", offset: int = 0) -> "torch.Tensor":
    """A copy of the values between bands of NaN."""
    import torch

    start = GUARD + offset * values.element_size()
    store = torch.full((start + values.nbytes + GUARD,), 0xFF, dtype=torch.uint8, device="cuda")
    inside = store[start : start + values.nbytes]
    inside.copy_(values.contiguous().view(-1).view(torch.uint8))
    return inside.view(values.dtype).view(values.shape)


def untouched(tensor: "torch.Tensor") -> bool:
    """Whether the bands around a guarded tensor are as they were."""
    import torch

    store = torch.empty(0, dtype=torch.uint8, device="cuda").set_(tensor.untyped_storage())
    start = tensor.storage_offset() * tensor.element_size()
    bands = torch.cat((store[:start], store[start + tensor.nbytes :]))
    return bool((bands == 0xFF).all())


def expected(call: Call, tensors: "list[torch.Tensor]") -> "torch.Tensor":
    """The paper's form: keys and values added up, in float64."""
    import torch

    activations = {
        "relu": torch.relu,
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    }
    hidden, ffn, visual, keys, values = (tensor.double() for tensor in tensors)
    z = torch.nn.functional.pad(visual, (0, 0, 0, len(keys) - visual.shape[1]))
    return ffn + SCALE * activations[call.activation](hidden @ (z + keys).mT) @ (z + values)


def run(library: ctypes.CDLL, call: Call, tensors: "list[torch.Tensor]") -> "torch.Tensor":
    """The operator with poisoned output and workspace; asserts that nothing else is written."""
    import torch
    from memvp_export.plugins.kernels import on_torch

    before = [tensor.clone() for tensor in tensors]
    output = guarded(torch.full_like(tensors[1], torch.nan), call.offset)
    problem = on_torch.problem_of(tensors[0], tensors[2], tensors[3], SCALE, call.activation)
    poison = torch.full((interface.workspace_bytes(library, problem),), 0xFF, dtype=torch.uint8, device="cuda")
    workspace = guarded(poison)
    on_torch.visual_memory_ffn(library, *tensors, SCALE, call.activation, output=output, workspace=workspace)
    torch.cuda.synchronize()
    assert all(untouched(tensor) for tensor in (*tensors, output, workspace))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))
    return output


def check(library: ctypes.CDLL, call: Call) -> None:
    """Close to float64, and the same bits a second time."""
    import torch

    tensors = call.tensors()
    actual, wanted = run(library, call, tensors), expected(call, tensors)
    error = actual.double() - wanted
    looked_up, rounding = LIMITS[call.dtype]
    limit = looked_up * torch.linalg.vector_norm(wanted - tensors[1].double())
    limit += rounding * torch.linalg.vector_norm(wanted)
    assert torch.linalg.vector_norm(error) <= limit
    assert error.abs().max() <= 8 * limit / error.numel() ** 0.5
    assert torch.equal(run(library, call, tensors), actual)


# The paper's sizes: LLaMA-7B and 13B, BART and T5 base, large.
MODELS = {"7B": (4096, 256, 320), "13B": (5120, 256, 320), "base": (768, 36, 36), "large": (1024, 49, 50)}
TOKENS = [(1, 1), (1, 2), (1, 4), (2, 1), (4, 1), (5, 1), (8, 1), (64, 1), (3, 4), (8, 5), (1, 8), (1, 9), (1, 64)]
TOKENS += [(2, 20), (8, 64), (1, 512), (3, 65)]
ODD = [
    (1, 1, 1, 1, 1),
    (2, 3, 51, 7, 19),
    (2, 67, 65, 66, 66),
    (5, 1, 8, 0, 1),
    (3, 2, 72, 5, 9),
    (70, 1, 96, 33, 70),
    (2, 6, 40, 530, 531),
    (1, 1, 8192, 9, 13),
    (9, 2, 8192, 9, 13),
    (1, 1, 16400, 2, 3),
    (700, 1, 64, 9, 12),
    (1, 3000, 64, 9, 12),
]


@pytest.mark.parametrize("dtype", interface.TYPES)
@pytest.mark.parametrize(("batch", "tokens"), TOKENS)
@pytest.mark.parametrize("model", MODELS)
def test_the_sizes_of_the_papers(library, model, batch, tokens, dtype) -> None:
    check(library, Call((batch, tokens, *MODELS[model]), dtype))


@pytest.mark.parametrize("dtype", interface.TYPES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_odd_sizes_and_addresses(library, sizes, offset, dtype) -> None:
    check(library, Call(sizes, dtype, offset=offset))


@pytest.mark.parametrize("dtype", interface.TYPES)
@pytest.mark.parametrize("activation", interface.ACTIVATIONS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (8, 1), (2, 40)])
def test_every_activation(library, batch, tokens, activation, dtype) -> None:
    check(library, Call((batch, tokens, 264, 20, 23), dtype, activation))


@pytest.mark.parametrize(("batch", "tokens"), [(4, 1), (8, 1), (64, 1), (3, 20)])
def test_one_visual_memory_serves_every_sample(library, batch, tokens) -> None:
    check(library, Call((batch, tokens, 768, 36, 40), shared=True))


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (8, 1), (64, 1), (1, 64), (2, 512)])
def test_a_captured_graph_computes_with_what_its_tensors_hold_then(library, batch, tokens) -> None:
    import torch
    from memvp_export.plugins.kernels import on_torch

    call = Call((batch, tokens, *MODELS["7B"]))
    tensors = call.tensors()
    output = torch.empty_like(tensors[1])
    problem = on_torch.problem_of(tensors[0], tensors[2], tensors[3], SCALE, call.activation)
    workspace = torch.empty(interface.workspace_bytes(library, problem), dtype=torch.uint8, device="cuda")

    def enqueue() -> None:
        on_torch.visual_memory_ffn(library, *tensors, SCALE, call.activation, output=output, workspace=workspace)

    enqueue()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue()
    tensors[0].neg_()
    enqueue()
    direct = output.clone()
    output.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(output, direct)


def test_the_output_may_be_the_tensor_of_the_ffn(library) -> None:
    import torch
    from memvp_export.plugins.kernels import on_torch

    for sizes in ((1, 1, 768, 36, 40), (8, 1, 768, 36, 40), (2, 64, 768, 36, 40), (2, 3, 51, 7, 19)):
        call = Call(sizes)
        tensors = call.tensors()
        apart = run(library, call, tensors)
        on_torch.visual_memory_ffn(library, *tensors, SCALE, call.activation, output=tensors[1])
        assert torch.equal(tensors[1], apart)
