"""APT on Stable Diffusion against diffusers' and transformers' own models on the same files: without prompts as they
are, with prompts through hooks beside their attentions."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from memvp_export.examples.random_diffusion import PRESETS, PROMPTS, write_source
from memvp_export.exporter.checkpoints.lazy import from_array
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.keep_fp32 import module_of
from memvp_export.exporter.models.component import Weight
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from safetensors.torch import load_file
from torch import Tensor, nn

from .apt_statement import distance

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module", params=["odd", "second"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    write_source(made, PRESETS[request.param])
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(read_source(folder))


@pytest.fixture(scope="module")
def reference(model: Model) -> TorchReference:
    return TorchReference(model.components, model.reference_weights)


@pytest.fixture(scope="module")
def plain(model: Model) -> TorchReference:
    """The same with prompts that are nothing."""
    official = dict(model.reference_weights)
    nothing = {n: from_array(np.zeros(t.shape, np.float32), n) for n, t in official.items() if ".APT." in n}
    return TorchReference(model.components, {**official, **nothing})


@pytest.fixture(scope="module")
def unet(folder: Path) -> nn.Module:
    host: nn.Module = diffusers.UNet2DConditionModel.from_pretrained(folder / "base" / "unet").eval()
    return host


@pytest.fixture(scope="module")
def text_encoder(folder: Path) -> nn.Module:
    from transformers import CLIPTextModel

    host: nn.Module = CLIPTextModel.from_pretrained(folder / "base" / "text_encoder").eval()
    return host


@contextmanager
def prompted(host: nn.Module, trained: dict[str, Tensor], projection: str) -> Iterator[None]:
    """The formula of a site (spec 3) on what its output projection gives; its rows are those that entered the site."""
    sites = {name.split(".APT.")[0] for name in trained}
    modules = dict(host.named_modules())
    entered: dict[str, Tensor] = {}

    def keep(site: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            entered[site] = args[0] if args else kwargs["hidden_states"]

        return hook

    def add(site: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: object, y: Tensor) -> Tensor:
            tokens, first, second, scale = (
                trained[f"{site}.APT.{leaf}"] for leaf in ("mm_tokens", "mm.0.weight", "mm.1.weight", "scale")
            )
            a = torch.relu(entered[site] @ (tokens + tokens @ first.T @ second.T).T)
            return torch.exp(scale) * (y + a.max(-1, keepdim=True).values * (a @ tokens))

        return hook

    with ExitStack() as stack:
        for site in sites:
            # Newer releases of transformers leave `text_model.` out.
            name = site if site in modules else site.removeprefix("text_model.")
            before = modules[name].register_forward_pre_hook(keep(site), with_kwargs=True)
            after = modules[f"{name}.{projection}"].register_forward_hook(add(site))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield


def trained(folder: Path, prefix: str) -> dict[str, Tensor]:
    found = load_file(folder / PROMPTS)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def noise_inputs(model: Model, step: int = 501) -> dict[str, np.ndarray]:
    random, ports = np.random.default_rng(step), {port.name: port for port in model.components[1].inputs}
    rows, width = ports["encoder_hidden_states"].dims[1:]
    return {
        "sample": random.standard_normal((2, 4, 6, 10)).astype(np.float32),
        "timestep": np.array([step]),
        "encoder_hidden_states": random.standard_normal((2, int(rows), int(width))).astype(np.float32),
    }


def predicted(host: nn.Module, inputs: dict[str, np.ndarray]) -> Tensor:
    sample, step, context = (torch.from_numpy(array) for array in inputs.values())
    with torch.no_grad():
        found: Tensor = host(sample, step, context).sample
    return found


@pytest.mark.parametrize("step", [0, 1, 999])
def test_the_unet_without_prompts(model: Model, plain: TorchReference, unet: nn.Module, step: int) -> None:
    inputs = noise_inputs(model, step)
    found = plain.run("unet", inputs)["out_sample"]
    assert distance(found, predicted(unet, inputs)) < 1e-5
    assert distance(plain.run("unet", {**inputs, "timestep": np.array([500])})["out_sample"], found) > 1e-2


def test_the_unet_with_prompts(folder: Path, model: Model, reference: TorchReference, unet: nn.Module) -> None:
    inputs, without = noise_inputs(model), predicted(unet, noise_inputs(model))
    with prompted(unet, trained(folder, "unet."), "to_out.0"):
        expected = predicted(unet, inputs)
    assert distance(reference.run("unet", inputs)["out_sample"], expected) < 1e-5
    assert distance(without, expected) > 1e-2, "prompts that add nothing would show nothing"


def test_the_prompts_are_where_the_file_has_them(folder: Path, model: Model) -> None:
    sites = {name.split(".APT.")[0].removeprefix("unet.") for name in trained(folder, "unet.")}
    kinds = {site.rsplit(".", 1)[1] for site in sites}
    assert sites == {name.split(".APT.")[0] for name in model.reference_weights if ".attn" in name and ".APT." in name}
    assert kinds == ({"attn1", "attn2"} if folder.name.startswith("odd") else {"attn2"})


def test_folded_weights_give_the_same(model: Model, reference: TorchReference) -> None:
    inputs = noise_inputs(model)
    folded = TorchReference(model.components, model.weights)
    assert distance(*(each.run("unet", inputs)["out_sample"] for each in (folded, reference))) < 1e-5


def test_the_text_encoder(folder: Path, model: Model, reference: TorchReference, text_encoder: nn.Module) -> None:
    rows = int(model.components[0].inputs[0].dims[1])
    ids = np.random.default_rng(0).integers(0, 500, (2, rows))
    with prompted(text_encoder, trained(folder, "text_encoder."), "out_proj"), torch.no_grad():
        expected = text_encoder(torch.from_numpy(ids)).last_hidden_state
    assert distance(reference.run("text_encoder", {"input_ids": ids})["last_hidden_state"], expected) < 1e-5


def test_the_decoder(folder: Path, reference: TorchReference) -> None:
    part = folder / "base" / "vae"
    host = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(part)).eval()
    host.load_state_dict(load_file(part / "diffusion_pytorch_model.safetensors"), strict=False)
    latents = np.random.default_rng(0).standard_normal((2, 4, 6, 10)).astype(np.float32)
    with torch.no_grad():
        expected = host.decode(torch.from_numpy(latents)).sample
    found = reference.run("vae_decoder", {"latent_sample": latents})["sample"]
    assert found.shape == (2, 3, 12, 20) and distance(found, expected) < 1e-5


@pytest.mark.parametrize("component", ["unet", "vae_decoder"])
def test_any_module_may_stay_float32_in_a_half_graph(model: Model, component: str) -> None:
    """What `--keep-fp32` names meets half types everywhere, one module of each kind at a time."""
    part = next(each for each in model.components if each.name == component)
    inputs = {name: torch.from_numpy(array) for name, array in noise_inputs(model).items()}
    inputs["latent_sample"] = inputs["sample"]
    full = {name: model.weights[name].load().float() for name in part.weights}
    full |= {name: torch.from_numpy(array) for name, array in part.constants.items()}
    half = {n: t if part.weights.get(n, Weight((), True)).float32 else t.half() for n, t in full.items()}
    kinds = {re.sub(r"\d+", "N", module_of(name)): module_of(name) for name in part.weights}
    with torch.no_grad():
        (expected,) = part.forward(full, inputs)
        for kept in kinds.values():
            weights = {name: full[name] if module_of(name) == kept else tensor for name, tensor in half.items()}
            (found,) = part.forward(weights, inputs)
            assert found.dtype == torch.float32 and distance(found, expected) < 2e-2, kept
