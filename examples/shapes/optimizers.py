"""How the small models learn: which optimizer moves what, and how fast at which step."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

_WARM_UP = 30


def make_optimizers(matrices: Sequence[Tensor], others: Sequence[Tensor], learning_rate: float) -> list[Optimizer]:
    """Muon for the matrices of layers, AdamW for vectors and for tables, whose rows are no maps."""
    return [
        Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def update(optimizers: Sequence[Optimizer], part: float) -> None:
    """One step of each, at `part` of the learning rate that it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("whole_lr", group["lr"]) * part
        optimizer.step()


def share(step: int, steps: int) -> float:
    """The part of the learning rate at a step: warm up, hold, and fall linearly to 2 % over the second half."""
    return min(1.0, (step + 1) / _WARM_UP, max(0.02, 2 * (steps - step) / steps))
