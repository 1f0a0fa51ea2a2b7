"""The official files of APT-ViLT -> its config, weights and use (spec 4.2 and 4.4)."""

from collections.abc import Mapping

from ..checkpoints.lazy import LazyTensor
from ..checkpoints.lightning import LightningCheckpoint
from ..checkpoints.matching import count_numbered, match, require_pieces, shapes_in
from ..checkpoints.source import Source
from ..errors import InputError
from ..images import pixelbert_preprocessing
from ..wordpiece import describe_wordpiece
from . import apt
from .apt_files import (
    OTHER_HEADS,
    attention_heads,
    head_sizes,
    labels_of,
    memory_of,
    read_apt,
    site_shapes,
    trained,
)
from .apt_heads import head_weights
from .apt_vilt import PROJECTION, Config, components
from .component import linear_weights, norm_weights, shapes_of
from .family import Model, precision_of

RELEASED_PREFIX = "Does the images satisfy the description:"
_UNUSED = ("text_embeddings.position_ids", *OTHER_HEADS)


def load(source: Source) -> Model:
    """Read the official files of `source` (keys checkpoint, tokenizer, and labels for vqa) into a Model."""
    path, options = source.files["checkpoint"], source.options
    checkpoint = read_apt(path, "transformer.blocks.N.attn", "ViLT")
    config = _config(checkpoint, source)
    official = match(checkpoint.weights, official_shapes(config, checkpoint.weights), str(path), ignored=_UNUSED)
    tokenizer = describe_wordpiece(source.files["tokenizer"])
    require_pieces(tokenizer["pieces"], source.files["tokenizer"], config.vocab, path)
    labels, notes = labels_of(source, config.classes)
    shorter = options["shorter_side"] or trained(checkpoint, "image_size", 384)
    return Model(
        family=source.family,
        task=source.task,
        config=config,
        components=components(config),
        weights=folded(official, config),
        unfolded=official,
        files={key: checkpoint.files if key == "checkpoint" else [file] for key, file in source.files.items()},
        precision=precision_of(official["text_embeddings.word_embeddings.weight"].dtype),
        preprocessing=pixelbert_preprocessing(config.height, config.width, shorter, config.patch),
        tokenizer={**tokenizer, "prefix": options["text_prefix"], "maximum": config.text_length},
        tokenizer_files={"file": source.files["tokenizer"]},
        generation=None,
        memory=memory_of(official, {"transformer.blocks.0.attn": config.prompt_rows}),
        options=dict(options),
        labels=labels,
        notes=[*_notes(checkpoint, options["text_prefix"]), *notes],
    )


def _config(checkpoint: LightningCheckpoint, source: Source) -> Config:
    path, task, options, found = source.files["checkpoint"], source.task, source.options, checkpoint.weights
    shape = shapes_in(found, path, "APT-ViLT")
    head_dim, classes = head_sizes(found, path, task, shape)
    vocab, dim = shape("text_embeddings.word_embeddings.weight", 2)
    _, channels, patch, patch_width = shape("transformer.patch_embed.proj.weight", 4)
    places = shape("transformer.pos_embed", 3)[1] - 1
    grid = round(places**0.5)
    if grid**2 != places or channels != 3 or patch != patch_width:
        raise InputError(f"{path}: its image embeddings are of no square grid of square RGB patches.")
    config = Config(
        task=task,
        dim=dim,
        blocks=count_numbered(found, "transformer.blocks."),
        heads=attention_heads(checkpoint, path, options["heads"], dim),
        ffn_dim=shape("transformer.blocks.0.mlp.fc1.weight", 2)[0],
        vocab=vocab,
        text_length=shape("text_embeddings.position_embeddings.weight", 2)[0],
        patch=patch,
        grid=grid,
        token_types=shape("token_type_embeddings.weight", 2)[0],
        prompt_rows=shape("transformer.blocks.0.attn.APT.mm_tokens", 2)[0],
        head_dim=head_dim,
        classes=classes,
        height=options["image_size"][0],
        width=options["image_size"][1],
        max_batch=options["max_batch"],
    )
    if config.height % patch or config.width % patch:
        raise InputError(f"option image_size is {options['image_size']}; both must be multiples of the patch, {patch}.")
    return config


def official_shapes(config: Config, found: Mapping[str, LazyTensor] | None = None) -> apt.Shapes:
    """Every official tensor that the forward pass reads. The rank of a prompt is its own, as `found` has it."""
    d = config.dim
    shapes: apt.Shapes = {
        "text_embeddings.word_embeddings.weight": (config.vocab, d),
        "text_embeddings.position_embeddings.weight": (config.text_length, d),
        "text_embeddings.token_type_embeddings.weight": (2, d),
        "token4classifier": (1, 1, d),
        "token_type_embeddings.weight": (config.token_types, d),
        "transformer.cls_token": (1, 1, d),
        "transformer.pos_embed": (1, 1 + config.grid**2, d),
        "transformer.patch_embed.proj.weight": (d, 3, config.patch, config.patch),
        "transformer.patch_embed.proj.bias": (d,),
    }
    plain = norm_weights("text_embeddings.LayerNorm", d)
    for i in range(config.blocks):
        block = f"transformer.blocks.{i}"
        shapes |= site_shapes(found or {}, f"{block}.attn", PROJECTION, config.prompt_rows, d)
        plain |= norm_weights(f"{block}.norm1", d) | linear_weights(f"{block}.attn.qkv", 3 * d, d)
        plain |= norm_weights(f"{block}.norm2", d) | linear_weights(f"{block}.mlp.fc1", config.ffn_dim, d)
        plain |= linear_weights(f"{block}.mlp.fc2", d, config.ffn_dim)
    plain |= norm_weights("transformer.norm", d) | linear_weights("pooler.dense", d, d)
    return shapes | shapes_of(plain | head_weights(config.task, d, config.head_dim, config.classes))


def folded(official: Mapping[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """The tensors of the graph (spec 8.1 and 8.7): prompts, and static rows of the embeddings, are sums made here."""
    n, d = config.images, config.dim
    types, places = official["token_type_embeddings.weight"], official["transformer.pos_embed"]
    static = {
        "text_embeddings.positions": apt.derived(
            (
                official["text_embeddings.position_embeddings.weight"],
                official["text_embeddings.token_type_embeddings.weight"],
            ),
            lambda rows, kinds: rows + kinds[0],
        ),
        "text_type": types.mapped((d,), lambda rows: rows[0]),
        "text_start": apt.derived((official["token4classifier"], types), lambda start, rows: start + rows[0]),
        "transformer.positions": places.mapped((config.grid**2, d), lambda rows: rows[0, 1:]),
        "image_types": types.mapped((n, 1, 1, d), lambda rows: rows[1 : 1 + n, None, None]),
        "image_starts": apt.derived(
            (official["transformer.cls_token"], places, types),
            lambda start, rows, kinds: start + rows[:, :1] + kinds[1 : 1 + n, None, None],
            (n, 1, 1, d),
        ),
    }
    prompts: dict[str, LazyTensor] = {}
    for i in range(config.blocks):
        prompts |= apt.fold(official, f"transformer.blocks.{i}.attn", PROJECTION)
    kept = {name: tensor for part in components(config) for name, tensor in official.items() if name in part.weights}
    return {**kept, **static, **prompts}


def _notes(checkpoint: LightningCheckpoint, prefix: str) -> list[str]:
    notes = [
        f"every text gets the prefix {prefix!r}, as the released code does in all tasks; which one this checkpoint was "
        "trained with is not in the file: set text_prefix if it was another"
        if prefix == RELEASED_PREFIX
        else f"texts get the prefix {prefix!r}; the released code has {RELEASED_PREFIX!r} in all tasks"
    ]
    most = checkpoint.config.get("max_image_len")
    if isinstance(most, int) and most > 0:
        notes.append(
            f"the checkpoint was trained with max_image_len = {most}: the official code then drops patches at random; "
            "this export always keeps all"
        )
    return notes
