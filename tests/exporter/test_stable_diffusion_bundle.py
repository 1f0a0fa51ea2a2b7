"""APT on Stable Diffusion the whole way: a diffusers folder and prompts -> bundle -> check and images; half graphs are
in engines/test_stable_diffusion_engines.py."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from memvp_export import export_onnx, read_source
from memvp_export.examples import random_diffusion
from memvp_export.examples.random_diffusion import PRESETS, PROMPTS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError, MissingPackage
from memvp_export.exporter.make_images import make_image, make_images
from memvp_export.exporter.models.family import components_of, load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import GOLDEN, check
from memvp_export.exporter.run import run
from memvp_export.exporter.text_to_image import ImageSettings, TextToImage
from PIL import Image
from safetensors.torch import load_file, save_file

from .models.apt_statement import distance

diffusers = pytest.importorskip("diffusers")
SIZES = replace(PRESETS["odd"], text_layers=1)
QUICK = ImageSettings(steps=4, guidance=3.0, height=16, width=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source (model.toml) and its bundle (`bundle`) in float32."""
    made, whole = tmp_path_factory.mktemp("diffusion"), random_diffusion.unet_json
    with pytest.MonkeyPatch.context() as patch:
        # Attention on the way down and across alone: tracing it takes most of the time, and on the way up it is the
        # same. test_stable_diffusion_diffusers.py has all of it.
        up = {"up_block_types": ["UpBlock2D"] * SIZES.levels}
        patch.setattr(random_diffusion, "unet_json", lambda sizes: {**whole(sizes), **up})
        write_source(made, SIZES)
    export_onnx(read_source(made), made / "bundle", "fp32")
    return made


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TextToImage:
    bundle = Bundle.open(folder / "bundle")
    return TextToImage.from_manifest(OnnxSession(bundle, threads=1), bundle.manifest, bundle.root)


def test_a_bundle_passes_its_check(folder: Path) -> None:
    source = folder / "questions.jsonl"
    source.write_text(json.dumps({"id": "a", "text": "one dog"}) + "\n" + json.dumps({"id": "b", "text": "no cat"}))
    report = check(folder / "bundle", source=read_source(folder), data=source)
    assert report.passed, report.failures
    golden = [result for result in report.outputs if result.reference == GOLDEN]
    assert [result.output for result in golden] == ["last_hidden_state", "out_sample", "sample", "latents"]
    assert sum(result.output == "latents" for result in report.outputs) == 2 and not report.notes
    # Images have no columns.
    cases = {(result.component, result.case) for result in report.outputs}
    assert {("vae_decoder", "random, batch 1, height 2, width 2"), ("text_encoder", "random, batch 1")} <= cases
    assert max(result.distance.relative_l2 for result in report.outputs) < 1e-5


def test_other_prompts_fail_the_check(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "base")
    shutil.copyfile(folder / "model.toml", tmp_path / "model.toml")
    trained = load_file(folder / PROMPTS)
    save_file({n: 1.2 * t if "attn1.APT.mm_tokens" in n else t for n, t in trained.items()}, tmp_path / PROMPTS)
    report = check(folder / "bundle", source=read_source(tmp_path))
    wrong = {result.component for result in report.outputs if not result.passed}
    assert not report.passed and wrong == {"unet"}


def test_latents_that_another_loop_made_fail_the_check(folder: Path, tmp_path: Path) -> None:
    from memvp_export.exporter.bundle import change

    root = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    name = "scheduler/scheduler_config.json"

    def exchange(**values: str) -> None:
        with change(root) as (writer, manifest):
            config = json.loads((root / name).read_text())
            (root / name).write_text(json.dumps({**config, **values}))
            writer.record(name)
            writer.write_manifest(manifest)

    exchange(prediction_type="v_prediction")
    report = check(root)
    assert not report.passed and [r.output for r in report.outputs if not r.passed] == ["latents"]
    exchange(prediction_type="x")
    with pytest.raises(InputError, match="prediction_type given as x"):
        check(root)


@pytest.mark.parametrize(
    ("change_it", "message"),
    [
        (lambda manifest, arrays: manifest["samples"]["latents"].pop("file"), "file"),
        (lambda manifest, arrays: manifest["samples"]["latents"]["settings"].update(height=5), "height is 5; it must"),
        (lambda manifest, arrays: manifest["samples"]["latents"]["settings"].update(steps="x"), "no settings"),
        (lambda manifest, arrays: manifest["config"]["vae"].update(scaling=0), "the scaling of its latents"),
        (lambda manifest, arrays: arrays.update({min(arrays): np.zeros((4, 2, 2))}), "latents of several sizes"),
        (lambda manifest, arrays: arrays.pop(min(arrays)), "has no latents of"),
    ],
)
def test_edited_latents_are_an_error(folder: Path, tmp_path: Path, change_it: Callable[..., Any], message: str) -> None:
    from memvp_export.exporter.bundle import change

    root = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    with change(root) as (writer, manifest):
        arrays = dict(np.load(root / "samples/latents.npz"))
        change_it(manifest, arrays)
        np.savez(root / "samples/latents.npz", **arrays)
        writer.record("samples/latents.npz")
        writer.write_manifest(manifest)
    with pytest.raises(InputError, match=message):
        check(root)


def test_the_graphs_have_the_names_that_optimum_gives_them(folder: Path) -> None:
    bundle = Bundle.open(folder / "bundle", verify=True)
    ports = {
        name: [{port["name"]: (port["dtype"], port["dims"]) for port in part[kind]} for kind in ("inputs", "outputs")]
        for name, part in bundle.manifest["components"].items()
    }
    latents = ["batch", 4, "2*height", "2*width"]
    assert ports == {
        "text_encoder": [
            {"input_ids": ("int64", ["batch", 20])},
            {"last_hidden_state": ("float32", ["batch", 20, 48])},
        ],
        "unet": [
            {
                "sample": ("float32", latents),
                "timestep": ("int64", [1]),
                "encoder_hidden_states": ("float32", ["batch", 20, 48]),
            },
            {"out_sample": ("float32", latents)},
        ],
        "vae_decoder": [
            {"latent_sample": ("float32", latents)},
            {"sample": ("float32", ["batch", 3, "4*height", "4*width"])},
        ],
    }
    assert bundle.manifest["components"]["unet"]["ranges"] == {"batch": [1, 16], "height": [1, 8], "width": [1, 8]}
    again = components_of("apt-stable-diffusion", json.loads(json.dumps(bundle.manifest["config"])))
    assert [part.name for part in again] == list(ports)


def test_the_prompts_are_one_function_and_folded(folder: Path) -> None:
    bundle = Bundle.open(folder / "bundle")
    for name, sites in (("unet", 4), ("text_encoder", 1), ("vae_decoder", 0)):
        graph = onnx.load(str(bundle.graph(name)), load_external_data=False)
        assert sum(node.op_type == "ApproximatedPrompt" for node in graph.graph.node) == sites
        assert [function.name for function in graph.functions] == ["ApproximatedPrompt"] * (sites > 0)
        assert not any("APT.mm" in tensor.name or "APT.scale" in tensor.name for tensor in graph.graph.initializer)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (3, 2, 5), (5, 8, 3)])
def test_graph_and_reference_agree_at_any_size(folder: Path, batch: int, height: int, width: int) -> None:
    model, session = load(read_source(folder)), OnnxSession(Bundle.open(folder / "bundle"), threads=1)
    reference, random = TorchReference(model.components, model.reference_weights), np.random.default_rng(batch)
    latents = random.standard_normal((batch, 4, 2 * height, 2 * width)).astype(np.float32)
    context = random.standard_normal((batch, 20, 48)).astype(np.float32)
    asked = {
        "unet": {"sample": latents, "timestep": np.array([7 * height]), "encoder_hidden_states": context},
        "vae_decoder": {"latent_sample": latents},
    }
    for name, inputs in asked.items():
        (found,), (expected,) = (each.run(name, inputs).values() for each in (session, reference))
        assert distance(found, expected) < 1e-5
        for key in inputs:
            changed = inputs[key] + 100 if key == "timestep" else 0.7 * inputs[key]
            assert distance(*session.run(name, {**inputs, key: changed}).values(), found) > 1e-3, key


def official_latents(folder: Path, text: str, settings: ImageSettings) -> torch.Tensor:
    """What diffusers' own pipeline leaves, with the prompts added by hooks."""
    from contextlib import ExitStack

    from transformers import CLIPTextModel, CLIPTokenizer

    from .models.test_stable_diffusion_diffusers import prompted, trained

    base = folder / "base"
    unet = diffusers.UNet2DConditionModel.from_pretrained(base / "unet").eval()
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder").eval()
    made = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(base / "vae")).eval(),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer", model_max_length=SIZES.positions),
        unet=unet,
        scheduler=diffusers.PNDMScheduler.from_pretrained(base / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    with ExitStack() as stack:
        stack.enter_context(prompted(unet, trained(folder, "unet."), "to_out.0"))
        stack.enter_context(prompted(text_encoder, trained(folder, "text_encoder."), "out_proj"))
        latents: torch.Tensor = made(
            text,
            negative_prompt=settings.negative_text,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            output_type="latent",
        ).images
    return latents


@pytest.mark.parametrize(("guidance", "negative", "seed"), [(3.0, "", 0), (7.5, "a blue house", 3), (1.0, "", 1)])
def test_the_latents_are_those_of_diffusers(
    folder: Path, pipeline: TextToImage, guidance: float, negative: str, seed: int
) -> None:
    settings = ImageSettings(4, guidance, seed, negative, 16, 24)
    expected = official_latents(folder, "a red ring, two cats", settings)
    assert distance(pipeline.latents(["a red ring, two cats"], settings), expected) < 1e-4


def test_text_seed_and_size_make_the_image(pipeline: TextToImage) -> None:
    first = pipeline.images(["a red ring"], QUICK)
    assert first.dtype == np.uint8 and first.shape == (1, 16, 24, 3) and first.std() > 5
    assert np.array_equal(first, pipeline.images(["a red ring"], QUICK))
    other = [
        pipeline.images(["a blue house"], QUICK),
        pipeline.images(["a red ring"], ImageSettings(4, 3.0, 1, "", 16, 24)),
        pipeline.images(["a red ring"], ImageSettings(4, 3.0, 0, "two cats", 16, 24)),
        pipeline.images(["a red ring"], ImageSettings(4, 6.0, 0, "", 16, 24)),
    ]
    assert all(np.abs(first.astype(int) - image).mean() > 0.5 for image in other)
    assert pipeline.images(["a red ring"], ImageSettings(4)).shape == (1, 32, 32, 3)
    together = pipeline.images(["two cats", "a red ring"], QUICK)
    assert np.abs(together[1].astype(int) - first[0]).max() <= 1


def test_a_batch_of_one_row_guides_too(folder: Path, pipeline: TextToImage) -> None:
    bundle = Bundle.open(folder / "bundle")
    manifest = json.loads(json.dumps(bundle.manifest))
    for part in manifest["components"].values():
        part["ranges"]["batch"] = [1, 1]
    narrow = TextToImage.from_manifest(OnnxSession(bundle, threads=1), manifest, bundle.root)
    assert narrow.max_batch == 1
    assert distance(*(each.latents(["two cats"], QUICK) for each in (narrow, pipeline))) < 1e-4


def test_run_writes_a_png_and_says_how(folder: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    bundle, output = folder / "bundle", tmp_path / "ring.png"
    words = ["--height", 16, "--width", 24, "--steps", 3, "--guidance", 4]
    done = command("run", bundle, "--text", "a red ring " * 20, "-o", output, *words, "--seed", 5, "--json")
    assert done.code == 0 and done.verdict == f"done: {output}, 24 x 16 pixels, 3 steps, seed 5"
    assert "lost its end" in done.err
    made = json.loads(done.out)
    assert (made["seed"], made["guidance"], made["height"], made["truncated"]) == (5, 4.0, 16, True)
    with Image.open(output) as image:
        assert (image.format, image.size) == ("PNG", (24, 16))
    lines = [{"id": name, "text": name} for name in ("cat", "dog")]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = command("run", bundle, "--data", tmp_path / "in.jsonl", "-o", tmp_path / "all", *words, "--batch", 2)
    assert done.code == 0 and done.verdict == f"done: 2 images in {tmp_path / 'all'}"
    alone = make_image(bundle, "dog", tmp_path / "dog.png", ImageSettings(3, 4.0, 0, "", 16, 24))["file"]
    same, other = (np.asarray(Image.open(tmp_path / "all" / name)).astype(int) for name in ("dog.png", "cat.png"))
    assert np.abs(same - np.asarray(Image.open(alone))).max() <= 1 < np.abs(same - other).max()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "x", "-o", "x.png", "--steps", 1000], "PNDMScheduler cannot make 1000 steps"),
        (["--text", "x", "-o", "x.png", "--guidance", 1e39], "guidance is 1e+39; it must be 0 to 1000000"),
        (["--text", "x"], "give -o, a PNG file"),
        (["--text", "x", "-o", "x.jpg"], "x.jpg is no name of a PNG file"),
        (["--text", "x", "-o", "x.png", "--height", 30], "height is 30; it must be a multiple of 4, from 4 to 32"),
        (["--text", "x", "-o", "x.png", "--width", 64], "width is 64"),
        (["--text", "x", "-o", "x.png", "--steps", 0], "steps is 0"),
        (["--text", "x", "-o", "x.png", "--guidance", -1], "guidance is -1"),
        (["--text", "x", "-o", "x.png", "--temperature", 1], "--temperature does not go with a bundle that makes"),
        (["--text", "x", "--image", "x.png"], "--image does not go with a bundle that makes images"),
    ],
)
def test_wrong_use_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any], words: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("run", folder / "bundle", *words)
    assert done.code == 2 and message in done.err and not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_no_image(pipeline: TextToImage, folder: Path, tmp_path: Path) -> None:
    class Overflowing:
        def run(self, component: str, inputs: Any, outputs: Any = None) -> Any:
            found = pipeline._session.run(component, inputs, outputs)
            return {name: array / 0 if component == "unet" else array for name, array in found.items()}

    from memvp_export.exporter.errors import VerdictError

    bundle = Bundle.open(folder / "bundle")
    with np.errstate(all="ignore"), pytest.raises(VerdictError, match="unet gave values that are not finite"):
        TextToImage.from_manifest(Overflowing(), bundle.manifest, bundle.root).images(["x"], QUICK)


def test_what_answers_questions_does_not_take_it(folder: Path) -> None:
    with pytest.raises(InputError, match="makes images of texts"):
        run(folder / "bundle", "x")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"id": "../x", "text": "x"}, "is no name of a file"),
        ({"id": "x" * 250, "text": "x"}, "is no name of a file"),
        ({"id": "a", "text": "x", "choices": ["y", "z"]}, "the request 'a' has choices"),
    ],
)
def test_requests_that_are_no_images_are_refused(
    folder: Path, tmp_path: Path, command: Callable[..., Any], request_: dict[str, Any], message: str
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(request_))
    for words in (["--dry-run"], ["-o", tmp_path / "out"]):
        done = command("run", folder / "bundle", "--data", tmp_path / "in.jsonl", *words)
        assert done.code == 2 and message in done.err and not (tmp_path / "out").exists()


def test_images_of_a_data_file_go_into_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": "x"}))
    with pytest.raises(InputError, match="is a file; images of a data file go into a folder"):
        make_images(folder / "bundle", tmp_path / "in.jsonl", tmp_path / "in.jsonl")


def test_without_diffusers_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackage, match=r"memvp-export\[diffusion\]"):
        make_image(folder / "bundle", "x", tmp_path / "x.png")
    with pytest.raises(MissingPackage, match=r"memvp-export\[diffusion\]"):
        export_onnx(read_source(folder), tmp_path / "bundle")
    report = check(folder / "bundle")
    assert report.passed and any("latents were not made: diffusers" in note for note in report.notes)
