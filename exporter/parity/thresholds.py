"""What each precision must reach. docs/parity.md says how the numbers were chosen."""

from dataclasses import dataclass


@dataclass(frozen=True)
class QualityLimit:
    """What a quantized model must keep of the float32 reference's, over all questions of a data file together: kl at
    most, in nats; top1, the share of logit rows with the same first token, and tokens, the share of the reference's
    greedy tokens that were generated too, at least; points of accuracy lost at most, where right answers are known.
    image is of models that make images: the mean relative L2 of those at most."""

    kl: float
    top1: float
    tokens: float
    points: float
    image: float

    @property
    def case_kl(self) -> float:
        """The mean KL divergence of a single case's logits, whatever its tokens are: only a fault goes beyond."""
        return 20 * self.kl


@dataclass(frozen=True)
class Threshold:
    """Limits of one precision: the highest relative L2 and the lowest cosine of every output. In all decisive rows of
    logits the first token must agree.

    margin says what is decisive, in standard deviations of a row of the reference's logits. It holds for answers too:
    one that differs fails unless, where the two part, the reference's own margin is not above it. quality is of
    quantized precisions: there the answers to a data file are judged together, and without one nothing is accepted;
    logits are judged by their divergence, since the relative L2 of a few small ones says nothing."""

    relative_l2: float
    cosine: float
    margin: float
    quality: QualityLimit | None = None


THRESHOLDS = {
    "fp32": Threshold(relative_l2=1e-5, cosine=0.999999, margin=1e-3),
    "fp16": Threshold(relative_l2=1e-2, cosine=0.9999, margin=0.1),
    "bf16": Threshold(relative_l2=5e-2, cosine=0.998, margin=0.5),
    "int8": Threshold(0.5, 0.87, 4.0, QualityLimit(kl=0.05, top1=0.97, tokens=0.95, points=1.0, image=0.1)),
    "fp8": Threshold(0.5, 0.87, 4.0, QualityLimit(kl=0.05, top1=0.97, tokens=0.95, points=1.0, image=0.1)),
    "int8-weights": Threshold(0.1, 0.995, 1.0, QualityLimit(kl=0.005, top1=0.99, tokens=0.98, points=0.5, image=0.03)),
    "int4-weights": Threshold(0.6, 0.8, 4.0, QualityLimit(kl=0.15, top1=0.95, tokens=0.92, points=2.0, image=0.2)),
}
