"""The two memory operators as torch operators, so that an export sees one node where a model looks a memory up.

Both are plain formulas; `plugins/reference.py` states them again in NumPy and the tests compare the two.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def _visual_memory_ffn(
    hidden: Tensor,
    ffn: Tensor,
    visual: Tensor,
    key_positions: Tensor,
    value_positions: Tensor,
    scale: float,
    activation: str,
) -> Tensor:
    rows, table_rows = visual.shape[1], key_positions.shape[0]
    if rows > table_rows:
        raise ValueError(f"the visual memory has {rows} rows, the position tables only {table_rows}")
    scores = hidden @ key_positions.T + F.pad(hidden @ visual.transpose(1, 2), (0, table_rows - rows))
    activations = ACTIVATIONS[activation](scores)
    return ffn + scale * (activations @ value_positions + activations[..., :rows] @ visual)


def _approximated_prompt(hidden: Tensor, attention: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    activations = F.relu(hidden @ keys.T)
    # The weight and the product are quadratic in the activations: half types overflow where the result does not.
    wide = torch.promote_types(hidden.dtype, torch.float32)
    weighted = activations.to(wide).amax(-1, keepdim=True) * (activations.to(wide) @ values.to(wide))
    return attention + weighted.to(attention.dtype)


@torch.library.custom_op("memvp::visual_memory_ffn", mutates_args=())
def visual_memory_ffn(
    hidden: Tensor,
    ffn: Tensor,
    visual: Tensor,
    key_positions: Tensor,
    value_positions: Tensor,
    scale: float,
    activation: str,
) -> Tensor:
    """MemVP's lookup beside a feed-forward block: `ffn + scale * act(h (Z+Pk)^T) (Z+Pv)`, Z zero-padded to p rows.

    Shapes: hidden and ffn [B,T,d]; visual Z [B or 1,v,d]; key_positions Pk and value_positions Pv [p,d], v <= p.
    All of one floating dtype. `activation` is a key of `ACTIVATIONS`. Raises ValueError where v > p.
    """
    return _visual_memory_ffn(hidden, ffn, visual, key_positions, value_positions, scale, activation)


def visual_memory_operands(
    hidden: Tensor, ffn: Tensor, visual: Tensor, key_positions: Tensor, value_positions: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operands of `visual_memory_ffn`, of its shapes, all in one dtype: float32 where `ffn` or a table has been
    kept in it."""
    dtype = torch.promote_types(ffn.dtype, torch.promote_types(key_positions.dtype, value_positions.dtype))
    tables = key_positions.to(dtype), value_positions.to(dtype)
    return hidden.to(dtype), ffn.to(dtype), visual.to(dtype), *tables


@torch.library.custom_op("memvp::approximated_prompt", mutates_args=())
def approximated_prompt(hidden: Tensor, attention: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """APT's lookup beside an attention: `attention + rowmax(a) * (a values)` with `a = relu(hidden keys^T)`.

    Shapes: hidden and attention [B,N,d]; keys and values [p,d]. All of one floating dtype; the products after the
    row maximum are computed in float32 at least.
    """
    return _approximated_prompt(hidden, attention, keys, values)


@visual_memory_ffn.register_fake
def _(hidden, ffn, visual, key_positions, value_positions, scale, activation):  # type: ignore[no-untyped-def]
    return torch.empty_like(ffn)


@approximated_prompt.register_fake
def _(hidden, attention, keys, values):  # type: ignore[no-untyped-def]
    return torch.empty_like(attention)


def _save_inputs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)))
    ctx.constants = tuple(i for i in inputs if not isinstance(i, Tensor))


def _gradient_of(formula):  # type: ignore[no-untyped-def]
    """The backward pass of `formula` by running it again with gradients: training needs no second derivation."""

    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            inputs = [
                t.detach().requires_grad_(need)
                for t, need in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
            ]
            output = formula(*inputs, *ctx.constants)
        wanted = [t for t in inputs if t.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient))
        return (*(next(found) if t.requires_grad else None for t in inputs), *(None for _ in ctx.constants))

    return backward


visual_memory_ffn.register_autograd(_gradient_of(_visual_memory_ffn), setup_context=_save_inputs)
approximated_prompt.register_autograd(_gradient_of(_approximated_prompt), setup_context=_save_inputs)
