"""Texts of several lengths in one batch."""

from memvp_export.exporter.padding import padded


def test_rows_are_padded_on_the_right_and_cut_before_their_last_token() -> None:
    made = padded([[5, 6, 7, 8, 2], [5, 2], [5, 6, 2]], 4, 1)
    assert made["input_ids"].tolist() == [[5, 6, 7, 2], [5, 2, 1, 1], [5, 6, 2, 1]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert all(array.dtype == "int64" for array in made.values())


def test_no_column_is_there_that_no_row_needs() -> None:
    assert padded([[5, 2], [2]], 20, 0)["input_ids"].tolist() == [[5, 2], [2, 0]]
