"""Does the image reach the answer at all? A parity figure means nothing for an operator that nothing depends on."""

from collections.abc import Sequence

import numpy as np

from ..session import Session
from .golden import Case
from .metrics import distance


def image_effect(session: Session, cases: Sequence[Case]) -> float | None:
    """Relative L2 by which the answers to the golden rows move when what comes of the image, the visual memory or the
    pixels, is set to zero; None without a golden case that reads an image for its answer, and not for another case."""
    read = {name for case in cases for name in case.inputs}
    # What an encoder sees of an image is not yet an answer.
    for case in sorted(cases, key=lambda case: "logits" not in case.outputs):
        pixels = [name for name in case.inputs if name.startswith("pixel_values") and read.isdisjoint(case.outputs)]
        images = ["visual_memory"] if "visual_memory" in case.inputs else pixels
        if case.name == "rows" and images:
            blind = {**case.inputs, **{name: np.zeros_like(case.inputs[name]) for name in images}}
            output = next(iter(case.outputs), "logits")
            with_image, without = (
                session.run(case.component, inputs, [output])[output] for inputs in (case.inputs, blind)
            )
            return distance(without, with_image).relative_l2
    return None
