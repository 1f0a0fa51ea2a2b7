"""What each precision must reach. docs/parity.md says how the numbers were chosen."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """Limits of one precision: the highest relative L2 and the lowest cosine of every output, and the share of decisive
    logit rows whose first token must agree.

    margin says what is decisive, in standard deviations of a row of the reference's logits. It holds for answers too:
    one that differs fails unless, where the two part, the reference's own margin is not above it."""

    relative_l2: float
    cosine: float
    decisive_top1: float
    margin: float


THRESHOLDS = {
    "fp32": Threshold(relative_l2=1e-5, cosine=0.999999, decisive_top1=1.0, margin=1e-3),
    "fp16": Threshold(relative_l2=1e-2, cosine=0.9999, decisive_top1=1.0, margin=0.1),
    "bf16": Threshold(relative_l2=5e-2, cosine=0.998, decisive_top1=1.0, margin=0.5),
}
