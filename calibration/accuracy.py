"""The share of right answers to requests whose answers are known."""

from collections.abc import Sequence

from ..exporter.data import Request
from ..exporter.judging import correct
from ..exporter.pipelines import AnyPipeline


def accuracy(pipeline: AnyPipeline, requests: Sequence[Request]) -> float:
    """Share of requests that are answered as expected."""
    answers = pipeline.answer(requests)
    return sum(bool(correct(*pair)) for pair in zip(requests, answers, strict=True)) / len(requests)
