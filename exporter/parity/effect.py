"""Does the image reach the answer at all? A parity figure means nothing for an operator that nothing depends on."""

from collections.abc import Sequence

import numpy as np

from ..session import Session
from .golden import Case
from .metrics import distance


def image_effect(session: Session, cases: Sequence[Case]) -> float | None:
    """Relative L2 by which the logits of the golden rows move when the visual memory is set to zero; None without a
    golden decoder case."""
    for case in cases:
        if case.name == "rows" and "visual_memory" in case.inputs:
            blind = {**case.inputs, "visual_memory": np.zeros_like(case.inputs["visual_memory"])}
            with_image, without = (
                session.run(case.component, inputs, ["logits"])["logits"] for inputs in (case.inputs, blind)
            )
            return distance(without, with_image).relative_l2
    return None
