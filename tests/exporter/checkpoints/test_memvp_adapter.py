"""The file of MemVP's training: with and without its wrappers, and what can be wrong with it."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memvp_export.exporter.checkpoints.memvp_adapter import read_memvp_adapter
from memvp_export.exporter.errors import InputError
from torch import Tensor

P, D, NARROW, WIDTH, RANK, BLOCKS = 6, 32, 8, 64, 3, 4


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "adapter_emb1": (1, P, D),
        "adapter_emb2": (1, P, D),
        "adapter_proj.fc1.weight": (NARROW, WIDTH),
        "adapter_proj.fc1.bias": (NARROW,),
        "adapter_proj.fc2.weight": (D, NARROW),
        "adapter_proj.fc2.bias": (D,),
        "adapter_modality_embedding.weight": (2, D),
    }
    for i in range(BLOCKS):
        block = f"backbone.visual.transformer.resblocks.{i}.adapter_mlp"
        shapes |= {f"{block}.fc1.weight": (RANK, WIDTH), f"{block}.fc2.weight": (WIDTH, RANK)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def saved(path: Path, state: dict[str, Tensor], form: str = "training") -> Path:
    if form == "bare":
        torch.save(state, path)
        return path
    prefix = "module." if form == "training" else ""
    model = {f"{prefix}{name}": torch.nn.Parameter(tensor) for name, tensor in state.items()}
    optimizer = torch.optim.AdamW(model.values())
    args = argparse.Namespace(lr=0.009, epochs=20, data_path="data", emb=320, device=torch.device("cpu"), list=[1])
    content = {"model": model, "optimizer": optimizer.state_dict(), "epoch": 19, "scaler": {"scale": 1.0}, "args": args}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("form", ["training", "one process", "bare"])
def test_values(tmp_path: Path, form: str) -> None:
    state = weights()
    adapter = read_memvp_adapter(saved(tmp_path / "checkpoint-19.pth", state, form), BLOCKS)
    sizes = (adapter.memory_rows, adapter.dim, adapter.projector_dim, adapter.vision_width, adapter.adapter_dim)
    assert sizes == (P, D, NARROW, WIDTH, RANK) and adapter.blocks == BLOCKS
    assert adapter.files == [tmp_path / "checkpoint-19.pth"]
    unused = {"adapter_modality_embedding.weight"} | {name for name in state if f"resblocks.{BLOCKS - 1}." in name}
    assert adapter.weights.keys() == state.keys() - unused
    for name, lazy in adapter.weights.items():
        expected = state[name][0] if name.startswith("adapter_emb") else state[name]
        assert lazy.shape == expected.shape and torch.equal(lazy.load(), expected), name
    expected_args = {} if form == "bare" else {"lr": 0.009, "epochs": 20, "data_path": "data", "emb": 320}
    assert adapter.args == expected_args


def test_the_dead_block_may_be_absent(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in weights().items() if f"resblocks.{BLOCKS - 1}." not in name}
    del state["adapter_modality_embedding.weight"]
    path = saved(tmp_path / "a.pth", state)
    adapter = read_memvp_adapter(path, BLOCKS)
    assert f"backbone.visual.transformer.resblocks.{BLOCKS - 2}.adapter_mlp.fc1.weight" in adapter.weights
    with pytest.raises(InputError, match=r"missing \(2\): .*resblocks.3.adapter_mlp.fc1.weight"):
        read_memvp_adapter(path, BLOCKS + 1)


def no_table(state: dict[str, Any]) -> None:
    del state["adapter_emb1"]


def no_bias(state: dict[str, Any]) -> None:
    del state["adapter_proj.fc2.bias"]


def no_clip_adapters(state: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith("backbone")]:
        del state[name]


def other_rows(state: dict[str, Any]) -> None:
    state["adapter_emb2"] = torch.ones(1, P + 1, D)


def two_tables(state: dict[str, Any]) -> None:
    state["adapter_emb2"] = torch.ones(2, P, D)


def flat_table(state: dict[str, Any]) -> None:
    state["adapter_emb1"] = torch.ones(P)


def extra(state: dict[str, Any]) -> None:
    state["layers.0.attention.wq.weight"] = torch.ones(D, D)


def other_rank(state: dict[str, Any]) -> None:
    state["backbone.visual.transformer.resblocks.1.adapter_mlp.fc1.weight"] = torch.ones(RANK + 1, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_table, "is no MemVP adapter: it lacks adapter_emb1"),
        (no_bias, r"missing \(1\): adapter_proj.fc2.bias"),
        (no_clip_adapters, "lacks the adapters of the CLIP tower"),
        (other_rows, r"adapter_emb2 is \[7, 32\], needs \[6, 32\]"),
        (two_tables, r"adapter_emb2 is \[2, 6, 32\], needs \[6, 32\]"),
        (flat_table, r"adapter_emb1 is \[6\], needs 3 dimensions"),
        (extra, r"not expected \(1\): layers.0.attention.wq.weight"),
        (other_rank, r"resblocks.1.adapter_mlp.fc1.weight is \[4, 64\], needs \[3, 64\]"),
    ],
)
def test_bad_adapters(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    state = weights()
    change(state)
    with pytest.raises(InputError, match=message):
        read_memvp_adapter(saved(tmp_path / "a.pth", state), BLOCKS)


class Attack:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch marker",)


def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": weights(), "args": Attack()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="system"):
        read_memvp_adapter(tmp_path / "a.pth", BLOCKS)
    assert not (tmp_path / "marker").exists()
