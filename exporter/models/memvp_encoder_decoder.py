"""What MemVP on BART and on T5 share (spec 2): the components `vision`, `encoder` and `decoder` around a host.

A host is two forward passes, `encode` and `decode`, over weights under Hugging Face's names. It knows nothing of the
memory: each of its FFNs hands what it read and what it gave to `add`, and goes on with the answer.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from ..checkpoints.memvp_adapter import TABLES
from ..dims import ENCODER_SEQUENCE
from .clip_tower import STEMS, TowerConfig, tower, tower_weights
from .component import Cache, Component, Depth, Port, Weight
from .memory import visual_memory_ffn, visual_memory_operands
from .projector import project, projector_weights

# What of the host has the memory beside its FFNs.
BOTH, ENCODER, DECODER = PLACES = ("both", "encoder", "decoder")

# (what an FFN read, what it gave) [B,T,d] -> what takes its place.
Add = Callable[[Tensor, Tensor], Tensor]


class Host(Protocol):
    """An encoder-decoder's sizes and forward passes; a frozen dataclass of plain values, which `asdict` and `replace`
    take.

    heads and head_dim are those of the decoder's caches, activation a key of `memory.ACTIVATIONS`. encoder_stem and
    decoder_stem are what the names of layers begin with, up to their number.
    """

    @property
    def dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def encoder_layers(self) -> int: ...
    @property
    def decoder_layers(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def encoder_stem(self) -> str: ...
    @property
    def decoder_stem(self) -> str: ...

    def encoder_weights(self) -> dict[str, Weight]:
        """Every tensor that `encode` reads, the decoder's cross-attention projections of keys and values among them."""
        ...

    def decoder_weights(self) -> dict[str, Weight]:
        """Every tensor that `decode` reads."""
        ...

    def encode(self, weights: Mapping[str, Tensor], ids: Tensor, mask: Tensor, add: Add) -> tuple[Tensor, ...]:
        """The last hidden states [B,T,d] of ids [B,T] int64 with mask [B,T], and of each layer of the decoder the keys
        and the values [B,H,T,hd] that its cross-attention makes of them."""
        ...

    def decode(
        self, weights: Mapping[str, Tensor], ids: Tensor, encoder_mask: Tensor, past: Mapping[str, Tensor], add: Add
    ) -> tuple[Tensor, ...]:
        """The logits [B,T,V] of ids [B,T] after the past, and of each layer the keys and the values [B,H,P+T,hd] of
        all columns. past has `past_key_values.{i}.{decoder,encoder}.{key,value}`; columns count from P on, none of
        them is padding, and each sees those before it."""
        ...


@dataclass(frozen=True)
class MemoryConfig:
    """What the memory depends on. rows is v, width f, table_rows p; tower makes the features where there is one,
    otherwise they are an input. scale is a (1.0), visual_scale lambda (0.01); places one of PLACES (spec 2.3)."""

    rows: int
    width: int
    tower: TowerConfig | None
    projector_dim: int
    table_rows: int
    scale: float
    visual_scale: float
    places: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MemoryConfig":
        """The inverse of `asdict`."""
        return cls(**{**data, "tower": None if data["tower"] is None else TowerConfig(**data["tower"])})


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Everything the graphs depend on. text_length is the longest text that is read, max_sequence the columns of the
    decoder: as many tokens can be written, the one they start with not counted. A family's own config says what its
    HOST is."""

    host: Host
    memory: MemoryConfig
    text_length: int
    max_sequence: int
    max_batch: int

    HOST: ClassVar[type]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**data, "host": cls.HOST(**data["host"]), "memory": MemoryConfig.from_dict(data["memory"])})


def components(config: EncoderDecoderConfig) -> tuple[Component, ...]:
    """The graphs of these families, in the order an answer runs through them."""
    return _vision(config), _encoder(config), _decoder(config)


def memory_entry(config: EncoderDecoderConfig) -> dict[str, Any]:
    """What the manifest says of the memory."""
    memory = config.memory
    parts = "encoder and decoder" if memory.places == BOTH else memory.places
    return {
        "activation": config.host.activation,
        "visual_rows": memory.rows,
        "table_rows": memory.table_rows,
        "scale": memory.scale,
        "lambda": memory.visual_scale,
        "folded": {"lambda": "vision", "scale": f"{parts}, attribute of VisualMemoryFFN"},
    }


def _vision(config: EncoderDecoderConfig) -> Component:
    memory, d = config.memory, config.host.dim
    port = Port("image_features", "float32", ("batch", memory.rows, memory.width))
    depth = None
    if memory.tower is not None:
        blocks = memory.tower
        port = Port("pixel_values", "float32", ("batch", 3, blocks.image_size, blocks.image_size))
        depth = Depth((STEMS,), lambda most: _vision(replace(config, memory=replace(memory, tower=blocks.at(most)))))
    weights = (tower_weights(memory.tower) if memory.tower else {}) | projector_weights(
        memory.width, memory.projector_dim, d
    )

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (vision(weights, config.memory, inputs),)

    return Component(
        name="vision",
        inputs=(port,),
        outputs=(Port("visual_memory", "graph", ("batch", memory.rows, d)),),
        weights=weights,
        forward=forward,
        ranges={"batch": (1, config.max_batch)},
        depth=depth,
    )


def vision(weights: Mapping[str, Tensor], memory: MemoryConfig, inputs: Mapping[str, Tensor]) -> Tensor:
    """The visual rows of the memory `lambda * f(z)` [B,v,d] in the weights' dtype (spec 2.3).

    z is `image_features` [B,v,f], or what the tower makes of `pixel_values` [B,3,S,S]. lambda is applied in float32: in
    half, 0.01 times a small feature would be subnormal. A row without an image has none of this: its memory is 0.
    """
    if memory.tower is None:
        features = inputs["image_features"]
    else:
        features = tower(weights, memory.tower, inputs["pixel_values"].to(weights["visual.conv1.weight"].dtype))
    projected = project(weights, features)
    return (memory.visual_scale * projected.float()).to(projected.dtype)


def _lookup(weights: Mapping[str, Tensor], config: EncoderDecoderConfig, inputs: Mapping[str, Tensor]) -> Add:
    """The lookup of a component that takes the memory; without it, an FFN stays as it is."""
    if "visual_memory" not in inputs:
        return lambda hidden, ffn: ffn
    visual, tables = inputs["visual_memory"], [weights[name] for name in TABLES]

    def add(hidden: Tensor, ffn: Tensor) -> Tensor:
        operands = visual_memory_operands(hidden, ffn, visual, *tables)
        return visual_memory_ffn(*operands, config.memory.scale, config.host.activation)

    return add


def _memory_ports(config: EncoderDecoderConfig, place: str) -> tuple[tuple[Port, ...], dict[str, Weight]]:
    """The input and the tensors of a component's lookups, none where it has no memory."""
    memory, d = config.memory, config.host.dim
    if memory.places not in (BOTH, place):
        return (), {}
    port = Port("visual_memory", "graph", ("batch", memory.rows, d))
    return (port,), {name: Weight((memory.table_rows, d)) for name in TABLES}


def _encoder(config: EncoderDecoderConfig) -> Component:
    host = config.host
    visual, tables = _memory_ports(config, ENCODER)

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        add = _lookup(weights, config, inputs)
        last, *caches = config.host.encode(weights, inputs["input_ids"], inputs["attention_mask"], add)
        return last.float(), *caches

    return Component(
        name="encoder",
        inputs=(
            Port("input_ids", "int64", ("batch", ENCODER_SEQUENCE)),
            Port("attention_mask", "int64", ("batch", ENCODER_SEQUENCE)),
            *visual,
        ),
        outputs=(
            Port("last_hidden_state", "float32", ("batch", ENCODER_SEQUENCE, host.dim)),
            *_caches(host, "present", "encoder", ENCODER_SEQUENCE),
        ),
        weights=host.encoder_weights() | tables,
        forward=forward,
        ranges={"batch": (1, config.max_batch), ENCODER_SEQUENCE: (1, config.text_length)},
        vocab=host.vocab,
        depth=Depth(
            ((host.encoder_stem,),),
            lambda most: _encoder(_at(config, encoder_layers=min(most, host.encoder_layers))),
        ),
    )


def _decoder(config: EncoderDecoderConfig) -> Component:
    host = config.host
    visual, tables = _memory_ports(config, DECODER)

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        add = _lookup(weights, config, inputs)
        logits, *caches = config.host.decode(
            weights, inputs["input_ids"], inputs["encoder_attention_mask"], inputs, add
        )
        return logits.float(), *caches

    return Component(
        name="decoder",
        inputs=(
            Port("input_ids", "int64", ("batch", "sequence")),
            Port("encoder_attention_mask", "int64", ("batch", ENCODER_SEQUENCE)),
            *visual,
            *_caches(host, "past_key_values", "decoder", "past_sequence"),
            *_caches(host, "past_key_values", "encoder", ENCODER_SEQUENCE),
        ),
        outputs=(
            Port("logits", "float32", ("batch", "sequence", host.vocab)),
            *_caches(host, "present", "decoder", "past_sequence + sequence"),
        ),
        weights=host.decoder_weights() | tables,
        forward=forward,
        ranges={
            "batch": (1, config.max_batch),
            "sequence": (1, config.max_sequence),
            "past_sequence": (0, config.max_sequence - 1),
            ENCODER_SEQUENCE: (1, config.text_length),
        },
        cache=Cache(axis=2, layers=host.decoder_layers),
        vocab=host.vocab,
        depth=Depth(
            ((host.decoder_stem, "past_key_values", "present"),),
            lambda most: _decoder(_at(config, decoder_layers=min(most, host.decoder_layers))),
        ),
    )


def _caches(host: Host, side: str, of: str, columns: str) -> tuple[Port, ...]:
    """Keys and values of every layer of the decoder, as past or present."""
    dims = ("batch", host.heads, columns, host.head_dim)
    return tuple(
        Port(f"{side}.{i}.{of}.{kind}", "graph", dims) for i in range(host.decoder_layers) for kind in ("key", "value")
    )


def _at(config: EncoderDecoderConfig, **layers: int) -> EncoderDecoderConfig:
    return replace(config, host=replace(config.host, **layers))  # type: ignore[type-var]
