"""Shapes as users write them."""

import pytest
from memvp_export.exporter.engines.shape_texts import parse_shapes
from memvp_export.exporter.errors import InputError

SEVERAL = {"input_ids": [2, 5], "past_key_values.0.key": [2, 6, 0, 16], "image_indicator": [2]}


@pytest.mark.parametrize(
    "texts",
    [
        ["input_ids:2x5,past_key_values.0.key:2x6x0x16,image_indicator:2"],
        ["input_ids:[2,5],past_key_values.0.key:[2, 6, 0, 16],image_indicator:[2]"],
        ["input_ids:2x5", "past_key_values.0.key:[2,6,0,16], image_indicator:2"],
    ],
)
def test_both_ways_of_writing(texts: list[str]) -> None:
    assert parse_shapes(texts) == SEVERAL


def test_nothing_gives_nothing() -> None:
    assert parse_shapes([]) == {}


@pytest.mark.parametrize("text", ["input_ids", "input_ids:", "input_ids:2x", "a:2x3 b:2", "a:[2,3", "a:-1x2", "a:2*3"])
def test_other_writings_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"not written as name:1x3x224x224 or name:\[1,3,224,224\]"):
        parse_shapes([text])


def test_a_name_comes_once() -> None:
    with pytest.raises(InputError, match="the shape of a is given twice"):
        parse_shapes(["a:1", "b:2,a:3"])
