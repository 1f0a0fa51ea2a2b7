"""The profiles that follow from sizes and shapes."""

from typing import Any

import pytest
from memvp_export.exporter.cache import pieces
from memvp_export.exporter.engines.profiles import Profile, make_profiles
from memvp_export.exporter.errors import InputError

Ports = list[dict[str, Any]]


def port(name: str, *dims: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": "float16", "dims": list(dims)}


VISION = [port("pixel_values", "batch", 3, 224, 224), port("image_indicator", "batch")]
DECODER = [
    port("input_ids", "batch", "sequence"),
    port("attention_mask", "batch", "past_sequence + sequence"),
    port("logits_positions", "batch", "positions"),
    port("visual_memory", "batch", 256, 96),
    port("past_key_values.0.key", "batch", 6, "past_sequence", 16),
]
SINGLE_PASS = [port("input_ids", "batch", "sequence"), port("attention_mask", "batch", "sequence")]
RANGES = {"batch": [1, 64], "sequence": [1, 512], "past_sequence": [0, 511], "positions": [1, 512]}


def limits(profile: Profile, name: str) -> list[list[int]]:
    return [profile.shapes[name][which] for which in ("min", "opt", "max")]


def test_a_component_without_a_past_gets_one_profile() -> None:
    (profile,) = make_profiles(VISION, {"batch": [1, 64]}, max_batch=5)
    assert profile.name == "default"
    assert limits(profile, "pixel_values") == [[1, 3, 224, 224], [3, 3, 224, 224], [5, 3, 224, 224]]
    assert limits(profile, "image_indicator") == [[1], [3], [5]]


def test_a_past_gives_a_profile_to_prefill_and_one_to_decode() -> None:
    prefill, decode = make_profiles(DECODER, RANGES, max_batch=2, max_seq=128)
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert limits(prefill, "input_ids") == [[1, 1], [1, 64], [2, 64]]
    assert limits(prefill, "past_key_values.0.key") == [[1, 6, 0, 16], [1, 6, 0, 16], [2, 6, 64, 16]]
    assert limits(prefill, "attention_mask") == [[1, 1], [1, 64], [2, 128]]
    assert limits(prefill, "logits_positions") == [[1, 1], [1, 1], [2, 64]]
    assert limits(decode, "input_ids") == [[1, 1], [1, 1], [2, 1]]
    assert limits(decode, "past_key_values.0.key") == [[1, 6, 0, 16], [1, 6, 63, 16], [2, 6, 127, 16]]
    assert limits(decode, "attention_mask") == [[1, 1], [1, 64], [2, 128]]
    assert limits(decode, "logits_positions") == [[1, 1], [1, 1], [2, 1]]


@pytest.mark.parametrize("columns", [1, 2, 3, 17, 128, 511, 512])
@pytest.mark.parametrize("new", [None, 1, 7, 100])
def test_no_profile_admits_more_columns_than_there_are_and_every_prompt_fits_in_pieces(
    columns: int, new: int | None
) -> None:
    given = {"max_shapes": {"input_ids": [2, new]}} if new and new <= columns else {}
    profiles = make_profiles(DECODER, RANGES, max_batch=2, max_seq=columns, **given)
    boxes = [
        (limits(one, "input_ids")[2][1], limits(one, "past_key_values.0.key")[2][2], limits(one, "attention_mask")[2])
        for one in profiles
    ]
    for sequence, past, mask in boxes:
        assert sequence >= 1 and sequence + past == mask[1] <= columns
    most = max(sequence for sequence, _, _ in boxes)
    for prompt in range(1, columns + 1):
        held = 0
        for length in pieces(prompt, most):
            assert any(length <= sequence and held <= past for sequence, past, _ in boxes), (prompt, held, length)
            held += length
        assert held == prompt


def test_what_is_given_of_the_past_is_bounded_in_prefill_by_the_new_columns() -> None:
    whole = {"max_shapes": {"input_ids": [2, 512]}}
    prefill, decode = make_profiles(DECODER, RANGES, **whole)
    assert limits(prefill, "input_ids")[2] == [2, 512] and limits(prefill, "past_key_values.0.key")[2][2] == 0
    assert limits(decode, "past_key_values.0.key")[2][2] == 511
    less = {"max_shapes": {"past_key_values.0.key": [2, 6, 100, 16]}}
    prefill, decode = make_profiles(DECODER, RANGES, **less)
    assert limits(prefill, "input_ids")[2] == [2, 412] and limits(prefill, "attention_mask")[2] == [2, 512]
    assert limits(decode, "past_key_values.0.key")[2][2] == 100
    full = {"opt_shapes": {"past_key_values.0.key": [2, 6, 400, 16]}}
    prefill, decode = make_profiles(DECODER, RANGES, **full)
    assert [limits(one, "past_key_values.0.key")[1][2] for one in (prefill, decode)] == [256, 400]
    usual = {"opt_shapes": {"input_ids": [2, 300]}}
    assert [make_profiles(DECODER, RANGES, **usual)[0].shapes["input_ids"][which][1] for which in ("opt", "max")] == [
        *(300, 300)
    ]


def test_a_static_past_bounds_past_and_new_columns_together() -> None:
    ports = [*DECODER[:-1], port("past_key_values.0.key", "batch", 6, 128, 16)]
    ranges = {**RANGES, "sequence": [1, 128], "past_sequence": [0, 127]}
    prefill, decode = make_profiles(ports, ranges, max_batch=2, max_seq=128)
    assert limits(prefill, "attention_mask") == [[1, 1], [1, 64], [2, 128]]
    assert limits(decode, "attention_mask") == [[1, 1], [1, 64], [2, 128]]
    assert limits(decode, "past_key_values.0.key") == [[1, 6, 128, 16], [1, 6, 128, 16], [2, 6, 128, 16]]
    # Shorter calls leave room for a past.
    prefill, _ = make_profiles(ports, ranges, max_shapes={"input_ids": [2, 100]})
    assert limits(prefill, "attention_mask")[2] == [2, 128] and limits(prefill, "input_ids")[2] == [2, 100]


@pytest.mark.parametrize("sizes", [{}, {"max_batch": 1}, {"max_batch": 64, "max_seq": 1}, {"max_seq": 17}])
@pytest.mark.parametrize("ports", [DECODER, SINGLE_PASS, VISION])
def test_all_inputs_of_a_profile_agree(ports: Ports, sizes: dict[str, int]) -> None:
    ranges = RANGES if ports is DECODER else {"batch": [1, 64], "sequence": [1, 512]}
    for profile in make_profiles(ports, ranges, **sizes):
        assert list(profile.shapes) == [port["name"] for port in ports]
        for which in ("min", "opt", "max"):
            found: dict[str, int] = {}
            for one in sorted(ports, key=lambda port: "+" in str(port["dims"])):
                for dim, size in zip(one["dims"], profile.shapes[one["name"]][which], strict=True):
                    if isinstance(dim, int):
                        assert size == dim
                    elif "+" in dim:
                        assert size == found["past_sequence"] + found["sequence"]
                    else:
                        assert found.setdefault(dim, size) == size
        for one in ports:
            assert all(low <= common <= high for low, common, high in zip(*limits(profile, one["name"]), strict=True))


def test_unless_said_a_batch_of_eight_and_all_columns() -> None:
    prefill, _ = make_profiles(DECODER, RANGES)
    assert prefill.shapes["input_ids"]["max"] == [8, 256] and prefill.shapes["attention_mask"]["max"] == [8, 512]
    assert make_profiles(VISION, {"batch": [1, 4]})[0].shapes["image_indicator"]["max"] == [4]


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"max_batch": 65}, "--max-batch asks for batch = 65; this component takes 1 to 64"),
        ({"max_batch": 0}, "--max-batch asks for batch = 0"),
        ({"max_seq": 513}, "--max-seq asks for sequence = 513; this component takes 1 to 512"),
        ({"max_seq": 0}, "--max-seq asks for sequence = 0"),
    ],
)
def test_a_size_outside_the_components_ranges_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_profiles(DECODER, RANGES, **sizes)


@pytest.mark.parametrize(
    "sizes, name, within, beyond, message",
    [
        ({"max_batch": 4}, "visual_memory", [4, 256, 96], [5, 256, 96], "batch = 5, and --max-batch 4 leaves 4"),
        ({"max_seq": 64}, "input_ids", [1, 64], [1, 65], "sequence = 65, and --max-seq 64 leaves 64"),
        (
            {"max_seq": 64},
            "past_key_values.0.key",
            [1, 6, 63, 16],
            [1, 6, 64, 16],
            "past_sequence = 64, and --max-seq 64 leaves 63",
        ),
    ],
)
@pytest.mark.parametrize("which", ["min", "opt", "max"])
def test_shapes_go_no_further_than_the_sizes_beside_them(
    which: str, sizes: dict[str, int], name: str, within: list[int], beyond: list[int], message: str
) -> None:
    given = f"{which}_shapes"
    made = make_profiles(DECODER, RANGES, **sizes, **{given: {name: within}})
    assert within in [limits(profile, name)[("min", "opt", "max").index(which)] for profile in made]
    with pytest.raises(InputError, match=rf"^--{which}-shapes asks for {message}"):
        make_profiles(DECODER, RANGES, **sizes, **{given: {name: beyond}})
    # Without the option the ranges alone bound them; where nobody says, the largest batch is a default.
    if which == "max":
        assert make_profiles(DECODER, RANGES, **{given: {name: beyond}})


def test_a_given_shape_holds_for_all_inputs() -> None:
    prefill, decode = make_profiles(
        DECODER,
        RANGES,
        max_batch=8,
        min_shapes={"input_ids": [2, 1]},
        opt_shapes={"attention_mask": [2, 48], "input_ids": [2, 16]},
        max_shapes={"input_ids": [4, 32], "past_key_values.0.key": [4, 6, 100, 16]},
    )
    assert limits(prefill, "input_ids") == [[2, 1], [2, 16], [4, 32]]
    assert limits(prefill, "past_key_values.0.key") == [[2, 6, 0, 16], [2, 6, 32, 16], [4, 6, 100, 16]]
    assert limits(prefill, "attention_mask") == [[2, 1], [2, 48], [4, 132]]
    assert limits(prefill, "logits_positions") == [[2, 1], [2, 1], [4, 32]]
    assert limits(decode, "input_ids") == [[2, 1], [2, 1], [4, 1]]
    assert limits(decode, "attention_mask") == [[2, 1], [2, 33], [4, 101]]


def test_what_is_not_given_keeps_within_what_is() -> None:
    (profile,) = make_profiles(SINGLE_PASS, RANGES | {}, max_shapes={"input_ids": [2, 16]})[:1]
    assert limits(profile, "input_ids") == [[1, 1], [1, 16], [2, 16]]
    (profile,) = make_profiles(VISION, {"batch": [1, 64]}, min_shapes={"image_indicator": [32]})
    assert limits(profile, "image_indicator") == [[32], [32], [32]]


@pytest.mark.parametrize(
    "shapes, message",
    [
        ({"max_shapes": {"pixels": [1]}}, "there is no input 'pixels'; there is input_ids, attention_mask"),
        ({"max_shapes": {"input_ids": [1, 2, 3]}}, r"--max-shapes input_ids:1x2x3 does not fit .* batchxsequence"),
        ({"min_shapes": {"visual_memory": [1, 255, 96]}}, "does not fit visual_memory, which is batchx256x96"),
        ({"opt_shapes": {"input_ids": [65, 2]}}, "--opt-shapes asks for batch = 65; this component takes 1 to 64"),
        ({"opt_shapes": {"input_ids": [16, 2]}}, "batch of 1 at least, 16 commonly and 8 at most: give"),
        ({"min_shapes": {"input_ids": [4, 2]}, "max_shapes": {"input_ids": [2, 2]}}, "batch of 4 at least"),
        ({"max_shapes": {"attention_mask": [1, 9]}}, r"gives past_sequence \+ sequence only as a sum"),
        ({"max_shapes": {"attention_mask": [1, 9], "input_ids": [1, 10]}}, "does not agree with the other shapes"),
        ({"max_shapes": {"visual_memory": [2, 256, 96], "input_ids": [1, 10]}}, "does not agree .* on batch"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, dict[str, list[int]]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_profiles(DECODER, RANGES, **shapes)


@pytest.mark.parametrize(("max_seq", "read"), [(None, 20), (12, 12), (30, 20)])
def test_the_columns_that_an_encoder_read_are_bounded_as_far_as_there_are_as_many(
    max_seq: int | None, read: int
) -> None:
    """A decoder may write more than its encoder reads: asking for that is no mistake."""
    ports = [
        port("input_ids", "batch", "sequence"),
        port("encoder_attention_mask", "batch", "encoder_sequence"),
        port("past_key_values.0.decoder.key", "batch", 6, "past_sequence", 16),
        port("past_key_values.0.encoder.key", "batch", 6, "encoder_sequence", 16),
    ]
    ranges = {"batch": [1, 4], "sequence": [1, 40], "past_sequence": [0, 39], "encoder_sequence": [1, 20]}
    prefill, decode = make_profiles(ports, ranges, max_seq=max_seq)
    assert all(limits(each, "encoder_attention_mask") == [[1, 1], [2, read], [4, read]] for each in (prefill, decode))
    assert limits(decode, "past_key_values.0.encoder.key")[2] == [4, 6, read, 16]
    assert limits(decode, "past_key_values.0.decoder.key")[2] == [4, 6, (max_seq or 40) - 1, 16]
