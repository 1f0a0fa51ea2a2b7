"""The kernels on torch tensors, without TensorRT: for tests, benchmarks and whoever runs the operator in torch."""

import ctypes

import torch

from . import interface

TYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def problem_of(
    hidden: torch.Tensor, visual: torch.Tensor, key_positions: torch.Tensor, scale: float, activation: str
) -> interface.Problem:
    """The sizes of hidden [B,T,d], visual [B or 1,v,d] and key_positions [p,d]. Raises KeyError for another dtype."""
    batch, tokens, width = hidden.shape
    sizes = (batch, tokens, width, visual.shape[1], len(key_positions), visual.shape[0])
    return interface.Problem(*sizes, interface.TYPES[TYPES[hidden.dtype]], interface.ACTIVATIONS[activation], scale)


def visual_memory_ffn(
    library: ctypes.CDLL,
    hidden: torch.Tensor,
    ffn: torch.Tensor,
    visual: torch.Tensor,
    key_positions: torch.Tensor,
    value_positions: torch.Tensor,
    scale: float,
    activation: str,
    *,
    output: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
) -> torch.Tensor:
    """`ffn + scale * act(hidden (Z + Pk)^T) (Z + Pv)` on torch's current stream, Z = visual padded with zero rows.

    hidden, ffn, output [B,T,d]; visual [B or 1,v,d]; key_positions, value_positions [p,d]; all contiguous, of one
    dtype. Give output and workspace (uint8, of interface.workspace_bytes) where a CUDA graph is captured or nothing may
    be allocated. Raises ValueError for tensors that do not fit together, RuntimeError with the library's reason.
    """
    tensors = (hidden, ffn, visual, key_positions, value_positions)
    output = torch.empty_like(ffn) if output is None else output
    width = hidden.shape[-1]
    fit = hidden.shape == ffn.shape == output.shape and key_positions.shape == value_positions.shape
    if not fit or any(tensor.shape[-1] != width for tensor in tensors):
        raise ValueError(f"tensors that do not fit together: {[tuple(tensor.shape) for tensor in tensors]}")
    if any(x.dtype != hidden.dtype or x.device != hidden.device or not x.is_contiguous() for x in (*tensors, output)):
        raise ValueError("the tensors must be contiguous, on one device and of one dtype")
    problem = problem_of(hidden, visual, key_positions, scale, activation)
    if workspace is None:
        needed = interface.workspace_bytes(library, problem)
        workspace = torch.empty(needed, dtype=torch.uint8, device=hidden.device)
    stream = torch.cuda.current_stream(hidden.device).cuda_stream if hidden.is_cuda else 0
    interface.visual_memory_ffn(
        library,
        problem,
        hidden.data_ptr(),
        ffn.data_ptr(),
        visual.data_ptr(),
        key_positions.data_ptr(),
        value_positions.data_ptr(),
        output.data_ptr(),
        workspace.data_ptr(),
        workspace.nbytes,
        stream,
    )
    return output
