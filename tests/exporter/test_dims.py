"""A dimension is read in one way wherever it is: a number, a name, or a sum of those, a name many times too."""

import pytest
from memvp_export.exporter.dims import Dim, known_length, length, terms, without_term

LENGTHS = {"batch": 2, "sequence": 3, "past_sequence": 7, "floor(width/2) + 1": 9}


@pytest.mark.parametrize(
    ("dim", "names", "expected"),
    [
        (96, [], 96),
        (0, [], 0),
        ("batch", ["batch"], 2),
        ("past_sequence + sequence", ["past_sequence", "sequence"], 10),
        ("past_sequence+sequence", ["past_sequence", "sequence"], 10),
        ("sequence + 1", ["sequence", "1"], 4),
        ("4*sequence", ["sequence"] * 4, 12),
        ("2*batch + sequence", ["batch", "batch", "sequence"], 7),
        ("floor(width/2) + 1", ["floor(width/2) + 1"], 9),
    ],
)
def test_a_dimension_is_the_sum_of_its_terms(dim: int | str, names: list[str], expected: int) -> None:
    assert terms(dim) == names
    assert length(dim, LENGTHS) == known_length(dim, LENGTHS) == expected


@pytest.mark.parametrize("dim", ["batch*sequence", "64*batch*sequence", "2*batch*sequence + 1"])
def test_products_of_names_have_a_length(dim: str) -> None:
    assert known_length(dim, LENGTHS) == {"b": 6, "6": 384, "2": 13}[dim[0]]


@pytest.mark.parametrize("dim", ["width", "width + sequence", "sequence + width", "4*sequence*width"])
def test_a_name_without_a_length_is_never_counted(dim: str) -> None:
    assert known_length(dim, LENGTHS) is None
    with pytest.raises(KeyError, match="width"):
        length(dim, LENGTHS)


def test_of_what_is_not_said_nothing_is_known() -> None:
    assert terms(None) == [] and known_length(None, LENGTHS) is None


@pytest.mark.parametrize(
    ("dim", "rest"),
    [
        ("past_sequence + sequence", "sequence"),
        ("past_sequence+sequence+1", "sequence + 1"),
        ("sequence", "sequence"),
        ("8*height", "8*height"),
        (96, 96),
        (None, None),
    ],
)
def test_a_term_is_taken_out(dim: Dim, rest: Dim) -> None:
    assert without_term(dim, "past_sequence") == rest
