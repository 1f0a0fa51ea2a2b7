"""What is measured: each stage of an answer, for one request (latency) and for many at once (throughput)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..dims import ENCODER_SEQUENCE
from ..errors import InputError
from .options import Options

PREFILL, DECODE, ANSWER = "prefill", "decode", "answer"
# The component that answers come from.
DECODER = "decoder"
# What an image is made with: this component runs at every step of it, the others once.
UNET = "unet"
LATENCY, THROUGHPUT = "latency", "throughput"
_BATCH, _PROMPT = 8, 64

Ranges = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Load:
    """One kind of call: `batch` rows of `columns` new columns after `past` ones (0 where a graph has no columns).

    stage "prefill" and "decode" are a cached decoder's, "answer" is the whole way from image and text with `columns`
    new tokens that `beams` find; any other stage is the component of its name. read is the length of the text that a
    decoder looks at which writes after an encoder. units is what `items` counts.
    """

    stage: str
    component: str
    mode: str
    batch: int
    columns: int = 0
    past: int = 0
    read: int = 0
    beams: int = 1

    @property
    def units(self) -> str:
        """What a call works through."""
        return "tokens" if self.columns else "images"

    @property
    def items(self) -> int:
        """How many of them one call works through."""
        return self.batch * max(1, self.columns)

    @property
    def title(self) -> str:
        """The load in words."""
        size = f"batch {self.batch}"
        if self.stage == ANSWER:
            beams = f", beams: {self.beams}" if self.beams > 1 else ""
            return f"{self.stage}, {size}, new tokens: {self.columns}{beams}"
        if not self.columns:
            return f"{self.stage}, {size}"
        after = f" after {self.past}" if self.past else ""
        read = f", a text of {self.read} read" if self.read else ""
        return f"{self.stage}, {size}, {self.columns} token{'s' if self.columns > 1 else ''}{after}{read}"


def stages_of(cached: Mapping[str, bool], ranges: Mapping[str, Ranges]) -> dict[str, str]:
    """The stages of components, by whether they have a cache, each with its component: a decoder with one has two, but
    for one behind an encoder, which has read the prompt."""
    made = {
        name: [DECODE] if ENCODER_SEQUENCE in ranges[name] else [PREFILL, DECODE] for name, has in cached.items() if has
    }
    return {stage: name for name in cached for stage in made.get(name, [name])}


def common_ranges(ranges: Sequence[Mapping[str, Ranges]]) -> dict[str, dict[str, tuple[int, int]]]:
    """Ranges of every component's dynamic dimensions that all of `ranges` allow."""
    return {
        component: {
            dim: (
                max(part[component][dim][0] for part in ranges),
                min(part[component][dim][1] for part in ranges),
            )
            for dim in set.intersection(*(set(part[component]) for part in ranges))
        }
        for component in set.intersection(*(set(part) for part in ranges))
    }


def plan_loads(
    cached: Mapping[str, bool], ranges: Mapping[str, Ranges], options: Options, beams: int = 1
) -> list[Load]:
    """The loads of components (see `stages_of`) within `ranges`; beams are those that answers are made with. Raises
    InputError for a size no graph takes, or for a stage that there is not."""
    stages = stages_of(cached, ranges)
    if options.new_tokens and DECODER not in cached:
        raise InputError("new_tokens asks for whole answers, and there is no decoder that would give any.")
    known = [*stages, *([ANSWER] if options.new_tokens else [])]
    if unknown := [stage for stage in options.stages or () if stage not in known]:
        hint = " It needs new_tokens." if unknown[0] == ANSWER else ""
        raise InputError(f"there is no stage {unknown[0]!r} to measure; there is {', '.join(known)}.{hint}")
    return [
        load
        for stage in known
        if stage in (options.stages or known)
        for load in _loads_of(stage, stages.get(stage, DECODER), ranges, options, beams)
    ]


def _loads_of(stage: str, component: str, ranges: Mapping[str, Ranges], options: Options, beams: int) -> Iterator[Load]:
    allowed = ranges[component]
    batch = _size("batch", options.batch, _BATCH, component, allowed.get("batch", (1, 1)))
    columns, past, read = 0, 0, 0
    if stage == ANSWER:
        columns = _size("new_tokens", options.new_tokens, 1, component, allowed.get("past_sequence", (1, 1)))
    elif stage == DECODE:
        columns, past = 1, _past(component, options, allowed)
        read = _prompt(component, options, allowed) if ENCODER_SEQUENCE in allowed else 0
    elif "sequence" in allowed or ENCODER_SEQUENCE in allowed:
        columns = _prompt(component, options, allowed)
    for mode, rows in ((LATENCY, max(1, allowed.get("batch", (1, 1))[0])), (THROUGHPUT, batch)):
        # Without a second row there is nothing that one request at a time did not show.
        if mode == LATENCY or rows > 1:
            yield Load(stage, component, mode, rows, columns, past, read, beams if stage == ANSWER else 1)


def _prompt(component: str, options: Options, allowed: Ranges) -> int:
    columns = allowed[ENCODER_SEQUENCE] if ENCODER_SEQUENCE in allowed else allowed["sequence"]
    return _size("prompt_tokens", options.prompt_tokens, _PROMPT, component, columns)


def _past(component: str, options: Options, allowed: Ranges) -> int:
    usual = _PROMPT if ENCODER_SEQUENCE in allowed else _prompt(component, options, allowed)
    return _size("past", options.past, usual, component, allowed["past_sequence"])


def _size(name: str, asked: int | None, usual: int, component: str, allowed: Sequence[int]) -> int:
    low, high = allowed
    if asked is not None and not low <= asked <= high:
        raise InputError(f"{name} is {asked}; {component} takes {low} to {high}.")
    return asked or min(max(usual, low, 1), high)
