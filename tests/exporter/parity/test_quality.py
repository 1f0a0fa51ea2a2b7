"""What is left of a model's answers, over all questions of a data file."""

import math
from dataclasses import replace

import pytest
from memvp_export.exporter.parity.metrics import Agreement
from memvp_export.exporter.parity.quality import Quality, quality_of, shortfalls, summary, unsure
from memvp_export.exporter.parity.report import GRAPH_ONLY
from memvp_export.exporter.parity.results import AnswerResult
from memvp_export.exporter.parity.thresholds import THRESHOLDS, QualityLimit

LIMIT = QualityLimit(kl=0.1, top1=0.9, tokens=0.8, points=5.0, image=0.1)


def _answer(tokens: list[int], expected: list[int], right: tuple[bool, bool] | None = None) -> AnswerResult:
    correct, expected_correct = right or (None, None)
    same = tokens == expected
    given = (GRAPH_ONLY, "1", "?", None, "a", "b", tokens, expected)
    return AnswerResult(*given, same, None, True, correct, expected_correct)


def test_logits_count_by_their_rows() -> None:
    agreements = [Agreement(1.0, 3, 1.0, 30, 0.01), Agreement(0.5, 1, 1.0, 10, 0.05)]
    found = quality_of(agreements, [_answer([1], [1])])
    assert (found.rows, found.questions) == (40, 1)
    assert (found.kl, found.top1) == pytest.approx((0.02, 0.875))


@pytest.mark.parametrize(
    ("tokens", "expected", "kept"),
    [
        ([4, 5], [4, 5], 1.0),
        ([4, 6], [4, 5], 1 / 3),
        ([6, 5], [4, 5], 0.0),
        # An answer that goes on, or ends early, lacks the other's end or next token.
        ([4, 5, 6], [4, 5], 2 / 3),
        ([4], [4, 5], 1 / 3),
        ([], [], 1.0),
    ],
)
def test_tokens_count_up_to_where_the_answers_part(tokens: list[int], expected: list[int], kept: float) -> None:
    assert quality_of([Agreement(1, 1, 1, 1, 0)], [_answer(tokens, expected)]).tokens == pytest.approx(kept)


def test_accuracy_is_of_the_questions_whose_answer_is_known() -> None:
    rights = [(True, True)] * 6 + [(False, True)] * 3 + [(True, False)]
    answers = [_answer([1], [1], right) for right in rights] + [_answer([1], [1])] * 5
    found = quality_of([Agreement(1, 1, 1, 15, 0)], answers).accuracy
    assert found is not None
    assert (found.questions, found.share, found.reference) == (10, 0.7, 0.9)
    assert found.difference == pytest.approx(-0.2) and found.interval[0] < 0.7 < found.interval[1]


def test_scores_have_neither_tokens_nor_logits() -> None:
    found = quality_of([], [_answer([], [])])
    assert found == Quality(1, 0, None, None, None, None)
    assert not shortfalls(found, LIMIT) and "scores of 1 question" in summary(found)


GOOD = quality_of([Agreement(1.0, 9, 1.0, 200, 1e-3)], [_answer([1], [1], (True, True))] * 200)


def test_what_is_kept_passes() -> None:
    assert shortfalls(GOOD, LIMIT) == [] and unsure(GOOD, LIMIT) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kl": 0.11}, "KL divergence is 1.10e-01"),
        ({"kl": math.nan}, "KL divergence"),
        ({"kl": math.inf}, "KL divergence"),
        ({"top1": 0.89}, "89.00% of 200 first tokens"),
        ({"tokens": 0.79}, "79.00% of the reference's greedy tokens"),
    ],
)
def test_each_limit_is_kept_or_named(change: dict[str, float], words: str) -> None:
    (found,) = shortfalls(replace(GOOD, **change), LIMIT)
    assert words in found


def test_a_loss_of_accuracy_is_named_with_its_interval() -> None:
    answers = [_answer([1], [1], (number >= 12, True)) for number in range(200)]
    lost = quality_of([Agreement(1.0, 9, 1.0, 200, 1e-3)], answers)
    (found,) = shortfalls(lost, LIMIT)
    assert "94.00% (89." in found and "difference -6.00 ±" in found and "at most 5.0 points" in found


def test_few_questions_leave_a_doubt() -> None:
    few = quality_of([Agreement(1.0, 9, 1.0, 10, 1e-3)], [_answer([1], [1], (True, True))] * 10)
    assert not shortfalls(few, LIMIT)
    assert "10 questions cannot rule out" in unsure(few, LIMIT)
    assert "accuracy was not measured" in unsure(replace(few, accuracy=None), LIMIT)


def test_only_quantized_precisions_are_judged_so() -> None:
    assert {name for name, limit in THRESHOLDS.items() if limit.quality} == {
        "int8", "fp8", "int8-weights", "int4-weights"
    }  # fmt: skip


def test_images_are_judged_by_how_near_they_are() -> None:
    near, far = (Quality(12, 0, None, None, None, None, image) for image in (0.09, 0.11))
    assert not shortfalls(near, LIMIT) and "mean relative L2 9.0e-02 of 12 images" in summary(near)
    assert "images' mean relative L2 is 1.10e-01, at most 0.1" in shortfalls(far, LIMIT)[0]
    assert shortfalls(replace(far, image=math.nan), LIMIT) and "not how good they are" in unsure(near, LIMIT)
