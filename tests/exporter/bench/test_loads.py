"""Which calls are measured, and sizes that no graph takes."""

import pytest
from memvp_export.exporter.bench.loads import Load, common_ranges, plan_loads
from memvp_export.exporter.bench.options import Options
from memvp_export.exporter.errors import InputError

CACHED = {"vision": False, "decoder": True}
RANGES = {
    "vision": {"batch": (1, 16)},
    "decoder": {"batch": (1, 16), "sequence": (1, 100), "past_sequence": (0, 99), "positions": (1, 100)},
}


def test_every_stage_is_measured_for_one_request_and_for_many() -> None:
    assert plan_loads(CACHED, RANGES, Options(batch=5, prompt_tokens=30, past=40, new_tokens=3)) == [
        Load("vision", "vision", "latency", 1),
        Load("vision", "vision", "throughput", 5),
        Load("prefill", "decoder", "latency", 1, 30),
        Load("prefill", "decoder", "throughput", 5, 30),
        Load("decode", "decoder", "latency", 1, 1, 40),
        Load("decode", "decoder", "throughput", 5, 1, 40),
        Load("answer", "decoder", "latency", 1, 3),
        Load("answer", "decoder", "throughput", 5, 3),
    ]


def test_what_is_left_open_follows_the_graphs() -> None:
    loads = plan_loads(CACHED, RANGES, Options())
    assert {load.batch for load in loads} == {1, 8} and [load.past for load in loads] == [0, 0, 0, 0, 64, 64]
    small = {name: {**ranges, "batch": (1, 3), "sequence": (1, 9)} for name, ranges in RANGES.items()}
    assert {(load.batch, load.columns, load.past) for load in plan_loads({"decoder": True}, small, Options())} == {
        (1, 9, 0), (3, 9, 0), (1, 1, 9), (3, 1, 9),
    }  # fmt: skip


def test_one_row_has_no_throughput_of_its_own() -> None:
    assert {load.mode for load in plan_loads(CACHED, RANGES, Options(batch=1))} == {"latency"}


def test_a_decoder_without_a_cache_is_one_stage() -> None:
    assert [load.stage for load in plan_loads({"decoder": False}, RANGES, Options(batch=1))] == ["decoder"]


READS = {
    "encoder": {"batch": (1, 16), "encoder_sequence": (1, 20)},
    "decoder": {"batch": (1, 16), "sequence": (1, 100), "past_sequence": (0, 99), "encoder_sequence": (1, 20)},
}


def test_what_an_encoder_reads_is_no_prefill_of_the_decoder_behind_it() -> None:
    cached = {"encoder": False, "decoder": True}
    loads = plan_loads(cached, READS, Options(batch=1, prompt_tokens=15, new_tokens=3), beams=5)
    assert loads == [
        Load("encoder", "encoder", "latency", 1, 15),
        Load("decode", "decoder", "latency", 1, 1, 64, 15),
        Load("answer", "decoder", "latency", 1, 3, beams=5),
    ]
    assert [load.title for load in loads[1:]] == [
        "decode, batch 1, 1 token after 64, a text of 15 read",
        "answer, batch 1, new tokens: 3, beams: 5",
    ]
    with pytest.raises(InputError, match=r"no stage 'prefill'.*encoder, decode"):
        plan_loads(cached, READS, Options(stages=("prefill",)))
    with pytest.raises(InputError, match="prompt_tokens is 40; encoder takes 1 to 20"):
        plan_loads(cached, READS, Options(prompt_tokens=40))


def test_stages_can_be_chosen() -> None:
    assert {load.stage for load in plan_loads(CACHED, RANGES, Options(stages=("decode",)))} == {"decode"}
    with pytest.raises(InputError, match=r"no stage 'dekode'.*vision, prefill, decode"):
        plan_loads(CACHED, RANGES, Options(stages=("dekode",)))
    with pytest.raises(InputError, match="needs new_tokens"):
        plan_loads(CACHED, RANGES, Options(stages=("answer",)))


def test_items_are_what_a_call_works_through() -> None:
    vision = Load("vision", "vision", "throughput", 5)
    assert (vision.items, vision.units) == (5, "images")
    prefill = Load("prefill", "decoder", "throughput", 5, 30)
    assert (prefill.items, prefill.units) == (150, "tokens")
    assert Load("decode", "decoder", "throughput", 5, 1, 40).items == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(batch=17), "batch is 17; vision takes 1 to 16"),
        (Options(prompt_tokens=101), "prompt_tokens is 101; decoder takes 1 to 100"),
        (Options(past=100), "past is 100; decoder takes 0 to 99"),
        (Options(new_tokens=100), "new_tokens is 100; decoder takes 0 to 99"),
    ],
)
def test_a_size_that_no_graph_takes_is_refused(options: Options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_loads(CACHED, RANGES, options)


@pytest.mark.parametrize(
    "values",
    [{"batch": 0}, {"past": 0}, {"warmup": -1}, {"iterations": 0}, {"duration": float("nan")}, {"percentiles": (100,)}],
)
def test_options_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match=next(iter(values)).rstrip("s")):
        Options(**values)


def test_answers_need_a_decoder() -> None:
    with pytest.raises(InputError, match="no decoder"):
        plan_loads({"vision": False}, RANGES, Options(new_tokens=3))


def test_common_ranges_are_what_all_take() -> None:
    engine = {"vision": {"batch": (2, 4)}, "decoder": {**RANGES["decoder"], "past_sequence": (0, 30)}}
    common = common_ranges([RANGES, engine])
    assert common["vision"] == {"batch": (2, 4)} and common["decoder"]["past_sequence"] == (0, 30)
    assert common["decoder"]["sequence"] == (1, 100)
