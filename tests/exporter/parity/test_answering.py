"""Which requests something shorter than the model can be compared on."""

from typing import Any

import pytest
from memvp_export.exporter.classifier import Classifier
from memvp_export.exporter.data import Request
from memvp_export.exporter.encoder_decoder import EncoderDecoder
from memvp_export.exporter.label_matcher import LabelMatcher
from memvp_export.exporter.parity.answering import fits, note_left_out
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.settings import Settings

REQUEST = Request("1", "")


def of(kind: type, columns: int) -> Any:
    """A pipeline that takes 12 columns, over a request whose longest text has so many."""
    made: Any = object.__new__(kind)
    made.max_sequence, made.texts = 12, lambda request: [[0], [0] * columns]
    return made


@pytest.mark.parametrize(("kind", "longest"), [(Pipeline, 9), (Classifier, 12), (LabelMatcher, 12)])
def test_only_what_writes_needs_room_for_new_tokens(kind: type, longest: int) -> None:
    settings = Settings(max_new_tokens=3 if kind is Pipeline else 1)
    assert fits(of(kind, longest), REQUEST, settings, 20) and not fits(of(kind, longest + 1), REQUEST, settings, 20)


def test_what_cannot_write_so_much_is_said_to_be_the_reason() -> None:
    made, report = of(EncoderDecoder, 5), Report("", "memvp-bart", "tensorrt", "fp32", THRESHOLDS["fp32"], [])
    made.max_written = 6
    short, long = Settings(max_new_tokens=6), Settings(max_new_tokens=7)
    assert fits(made, REQUEST, short, 12) and not fits(made, REQUEST, long, 12) and not fits(made, REQUEST, long, 20)
    note_left_out(report, 2, "2 answers", made, long)
    note_left_out(report, 1, "2 answers", made, short)
    assert report.notes == [
        "2 of 2 answers were not compared: the engine was built for answers of fewer than 7 tokens",
        "1 of 2 answers were not compared: they are longer than the 12 columns that the engine was built for",
    ]


def test_texts_are_read_only_where_they_may_be_cut_elsewhere() -> None:
    made = of(LabelMatcher, 1)
    made.texts = lambda request: pytest.fail("a thousand labels were read")
    assert fits(made, REQUEST, Settings(), 12)
