"""Rows of token ids -> what a graph that reads texts of several lengths takes."""

from collections.abc import Sequence

import numpy as np

from .session import Arrays


def padded(rows: Sequence[Sequence[int]], longest: int, pad: int) -> Arrays:
    """input_ids and attention_mask [B,T] int64 of texts, padded on the right to the longest; what has more than
    `longest` ids loses its end, never the token that ends it."""
    fitted = [row if len(row) <= longest else [*row[: longest - 1], row[-1]] for row in rows]
    shape = len(fitted), max(map(len, fitted))
    ids, mask = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
    for index, row in enumerate(fitted):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
