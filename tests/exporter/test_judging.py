"""One rule for whether an answer is right."""

from typing import Any

import pytest
from memvp_export.exporter.data import Answer, Request
from memvp_export.exporter.judging import accepted_texts, correct


@pytest.mark.parametrize(
    ("expected", "text", "choice", "right"),
    [
        (None, "B", None, None),
        (1, "B", 1, True),
        (0, "B", 1, False),
        (0, "sun", -1, False),
        ("Red ", " red", None, True),
        ("red", "dark red", None, False),
        (("red", "scarlet"), "Scarlet", None, True),
        # An expected text that is one of the choices means that choice, which is answered by its letter.
        ("sun", "B", 1, True),
        ("Sun ", "A", 0, False),
        (("sun", "sea"), "A", 0, True),
        ("sun", "sun", -1, False),
        ("moon", "moon", -1, True),
    ],
)
def test_what_counts_as_right(expected: Any, text: str, choice: int | None, right: bool | None) -> None:
    request = Request("1", "?", choices=("sea", "sun"), answer=expected)
    assert correct(request, Answer("1", text, (), choice)) is right


@pytest.mark.parametrize(
    ("expected", "texts"), [(None, ()), (1, ("sun",)), ("red", ("red",)), (("red", "blue"), ("red", "blue"))]
)
def test_accepted_texts(expected: Any, texts: tuple[str, ...]) -> None:
    assert accepted_texts(Request("1", "?", choices=("sea", "sun"), answer=expected)) == texts
