"""METER without prompts against transformers on the same weights, part by part: it has no whole METER."""

from types import SimpleNamespace

import torch
from memvp_export.exporter.models import apt_meter, roberta
from memvp_export.exporter.models.clip_tower import TowerConfig, tower
from memvp_export.exporter.models.layers import key_bias
from memvp_export.exporter.models.roberta import RobertaConfig
from torch import Tensor, nn
from transformers import BertConfig, CLIPVisionConfig, CLIPVisionModel, RobertaModel
from transformers import RobertaConfig as HostConfig
from transformers.models.bert.modeling_bert import BertLayer

from .apt_statement import distance

CONFIG = RobertaConfig(dim=128, layers=3, heads=2, ffn_dim=144, vocab=90, positions=18, length=12)
TOWER = TowerConfig(width=128, blocks=4, patch=8, grid=3, adapter_dim=0, adapter_scale=0.0)


def randomized(host: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    for parameter in host.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
    return host.state_dict()


def test_roberta_with_padding_anywhere() -> None:
    host = RobertaModel(
        HostConfig(
            vocab_size=CONFIG.vocab,
            hidden_size=CONFIG.dim,
            num_hidden_layers=CONFIG.layers,
            num_attention_heads=CONFIG.heads,
            intermediate_size=CONFIG.ffn_dim,
            max_position_embeddings=CONFIG.positions,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        ),
        add_pooling_layer=False,
    ).eval()
    # The names are Hugging Face's own (spec 5.5).
    weights = {f"text_transformer.{name}": tensor for name, tensor in randomized(host).items()}
    ids = torch.randint(2, CONFIG.vocab, (3, 11), generator=torch.Generator().manual_seed(1))
    ids[0, 7:] = ids[1, :4] = roberta.PAD
    ids[2, [2, 3, 9]] = roberta.PAD
    mask = (ids != roberta.PAD).long()
    with torch.no_grad():
        expected = host(input_ids=ids, attention_mask=mask).last_hidden_state
        actual = roberta.encode(weights, CONFIG, ids, key_bias(mask))
        unmasked = roberta.encode(weights, CONFIG, ids, key_bias(torch.ones_like(mask)))
    assert distance(actual[mask == 1], expected[mask == 1]) < 1e-6
    assert distance(unmasked[mask == 1], expected[mask == 1]) > 1e-2


def test_the_image_tower_keeps_the_class_token() -> None:
    host = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=TOWER.width,
            intermediate_size=4 * TOWER.width,
            num_hidden_layers=TOWER.blocks,
            num_attention_heads=2,
            image_size=TOWER.image_size,
            patch_size=TOWER.patch,
        )
    ).eval()
    theirs = {name.removeprefix("vision_model."): tensor for name, tensor in randomized(host).items()}
    own = {
        "visual.conv1.weight": theirs["embeddings.patch_embedding.weight"],
        "visual.class_embedding": theirs["embeddings.class_embedding"],
        "visual.positional_embedding": theirs["embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        own |= {f"visual.ln_pre.{kind}": theirs[f"pre_layrnorm.{kind}"]}
        own |= {f"visual.ln_post.{kind}": theirs[f"post_layernorm.{kind}"]}
        for i in range(TOWER.blocks - 1):
            block, layer = f"visual.transformer.resblocks.{i}", f"encoder.layers.{i}"
            packed = [theirs[f"{layer}.self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")]
            own |= {f"{block}.attn.in_proj_{kind}": torch.cat(packed)}
            names = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
            names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            own |= {f"{block}.{ours}.{kind}": theirs[f"{layer}.{name}.{kind}"] for ours, name in names.items()}
    side = TOWER.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = host(pixel_values=pixels, output_hidden_states=True).hidden_states
        inner = getattr(host, "vision_model", host)
        expected = inner.post_layernorm(states[-2])
        actual = tower(own, TOWER, pixels, class_token=True)
    assert distance(actual, expected) < 1e-6
    assert torch.equal(tower(own, TOWER, pixels), actual[:, 1:])


def test_a_layer_of_a_stream_is_berts_with_cross_attention() -> None:
    dim, heads, rows = 96, 6, 5
    config = BertConfig(
        hidden_size=dim,
        num_attention_heads=heads,
        intermediate_size=160,
        is_decoder=True,
        add_cross_attention=True,
        attn_implementation="eager",
    )
    host = BertLayer(config).eval()
    weights = {f"layer.{name}": tensor for name, tensor in randomized(host).items()}
    generator = torch.Generator().manual_seed(1)
    for part in ("attention", "crossattention"):
        site = f"layer.{part}.output.APT"
        weights |= {f"{site}.mm_tokens": torch.zeros(rows, dim), f"{site}.scale": torch.zeros(1)}
        weights |= {f"{site}.mm.0.weight": torch.ones(4, dim), f"{site}.mm.1.weight": torch.ones(dim, 4)}
    eps = {f"layer{part}.LayerNorm.eps" for part in (".attention.output", ".crossattention.output", ".output")}
    weights |= {name: torch.tensor([1e-12]) for name in eps}
    x, other = (torch.randn(2, length, dim, generator=generator) for length in (7, 4))
    biases = [key_bias(torch.randint(0, 2, (2, length), generator=generator)) for length in (7, 4)]
    sizes = SimpleNamespace(heads=heads)
    with torch.no_grad():
        expected = host(x, biases[0], other, biases[1])
        actual = apt_meter.cross_layer(weights, sizes, "layer", x, other, *biases)  # type: ignore[arg-type]
        prompts = {n: torch.randn_like(t) for n, t in weights.items() if n.endswith("mm_tokens")}
        prompted = apt_meter.cross_layer(weights | prompts, sizes, "layer", x, other, *biases)  # type: ignore[arg-type]
    assert distance(actual, expected) < 1e-6
    assert distance(prompted, actual) > 1e-2, "the prompts must be what was off"
