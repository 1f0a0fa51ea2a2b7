"""Models and lanes over a fake TensorRT and CUDA: the Python pipeline's answers, from each kind of cache, and every way
to fail. Nothing here shows that a real GPU gives them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter import images
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.shapes import built_ranges
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.settings import Settings
from PIL import Image

from . import closed_form, engine_bundle
from .conftest import Probe, Refused

Engines = Callable[..., Any]
PROMPTS = [[5, 3, 9], [1], [4, 4, 8, 1, 7, 20, 11], [6, 2, 6, 10], [9, 9, 9, 9, 9], [3], [19, 1]]
PICTURES = {name: np.random.default_rng(seed).integers(0, 256, (9, 14, 3), np.uint8) for seed, name in enumerate("abc")}
SPEC = images.memvp_preprocessing(engine_bundle.SIDE)
KINDS = ["concat", "delta", "in_place"]


def opened(engines: Engines, root: Path, **options: Any) -> str:
    return engines("open", root=root, **{"trusted": False, "device": 0, **options})


def see(engines: Engines, folder: Path, names: str = "abc", **more: Any) -> None:
    asked = {}
    for name in names:
        PICTURES[name].tofile(folder / f"{name}.rgb")
        asked[name] = {"rgb": folder / f"{name}.rgb", "height": 9, "width": 14}
    engines("see", images=asked, **more)


def questions(prompts: list[list[int]], pictures: str = "abc") -> list[dict[str, Any]]:
    """The prompts, about the pictures in turn; every fourth is about none."""
    names = [*pictures, ""]
    return [{"ids": ids, "image": names[number % len(names)]} for number, ids in enumerate(prompts)]


def seen_by_python(asked: list[dict[str, Any]]) -> list[int]:
    pixels = {name: images.preprocess(Image.fromarray(picture), SPEC) for name, picture in PICTURES.items()}
    return [engine_bundle.brightness(pixels[each["image"]]) if each["image"] else 0 for each in asked]


def python(entry: dict[str, Any], asked: list[dict[str, Any]]) -> Pipeline:
    session = closed_form.ClosedFormSession(entry["cache"]["kind"], seen_by_python(asked))
    described = {**entry, "ranges": built_ranges(entry)}
    return Pipeline(session, closed_form.IdTokenizer(), SPEC, described)  # type: ignore[arg-type]


def answers_of_python(entry: dict[str, Any], asked: list[dict[str, Any]], settings: Settings) -> list[list[int]]:
    requests = [Request(str(number), " ".join(map(str, each["ids"]))) for number, each in enumerate(asked)]
    return [list(answer.ids) for answer in python(entry, asked).answer(requests, settings)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_python_pipelines(engines: Engines, tmp_path: Path, kind: str, precision: str) -> None:
    """Several batches, a prefill in pieces, prompts with and without images, pictures that are asked about twice."""
    entry = closed_form.entry(kind, chunk=4)
    made = engine_bundle.half(entry) if precision == "fp16" else entry
    vision = engine_bundle.vision_entry("float16" if precision == "fp16" else "float32")
    opened(engines, engine_bundle.make(tmp_path / "b", made, vision, precision))
    see(engines, tmp_path)
    asked = questions(PROMPTS)
    for new, batch in ((1, 0), (9, 0), (24, 3)):
        expected = answers_of_python(entry, asked, Settings(max_new_tokens=new, batch=batch or None))
        assert engines("answer", questions=asked, max_new_tokens=new, batch=batch) == expected
    assert engines("settings") == [9, 1]


def test_the_image_moves_the_answer(engines: Engines, tmp_path: Path) -> None:
    opened(engines, engine_bundle.make(tmp_path / "b", closed_form.entry("delta")))
    see(engines, tmp_path)
    found = [engines("answer", questions=questions([[5]], name), max_new_tokens=8, batch=0)[0] for name in "abc"]
    assert len({tuple(ids) for ids in found}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_columns(engines: Engines, tmp_path: Path, kind: str) -> None:
    entry = closed_form.entry(kind, chunk=4, positions=2)
    opened(engines, engine_bundle.make(tmp_path / "b", entry))
    see(engines, tmp_path)
    asked = questions(PROMPTS[:4])
    positions = np.array([[0, 6, 3], [6, 6, 5], [1, 2, 3], [4, 5, 0]])
    visual = np.array(seen_by_python(asked), np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    pipeline = python(entry, asked)
    expected = pipeline.logits(*pipeline.padded(PROMPTS[:4]), positions, visual)
    engines("logits", questions=asked, positions=positions.ravel().tolist(), file=tmp_path / "logits")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "logits", np.float32).reshape(expected.shape), expected)


def test_lanes_run_side_by_side_and_a_second_thread_waits(engines: Engines, tmp_path: Path) -> None:
    entry = closed_form.entry("delta")
    opened(engines, engine_bundle.make(tmp_path / "b", entry))
    see(engines, tmp_path)
    asked = questions(PROMPTS)
    expected = answers_of_python(entry, asked, Settings(max_new_tokens=12))
    found = engines("answer side by side", questions=asked, max_new_tokens=12, batch=0)
    assert found == [expected] * 4


def test_what_a_lane_saw_another_can_be_asked_about(engines: Engines, tmp_path: Path) -> None:
    entry = closed_form.entry("in_place")
    opened(engines, engine_bundle.make(tmp_path / "b", entry))
    see(engines, tmp_path, lane="one")
    asked = questions(PROMPTS[:3])
    expected = answers_of_python(entry, asked, Settings(max_new_tokens=9))
    assert engines("answer", questions=asked, max_new_tokens=9, batch=0, lane="two") == expected


def test_what_another_model_saw_is_refused(engines: Engines, tmp_path: Path) -> None:
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    opened(engines, root)
    see(engines, tmp_path, "a")
    engines("forget", image="b")
    opened(engines, root)
    with pytest.raises(Refused, match="question 0 is about an image that another model saw"):
        engines("answer", questions=questions([[5]], "a"), max_new_tokens=2, batch=0, lane="new")


def test_memory_is_kept_from_call_to_call(engines: Engines, tmp_path: Path) -> None:
    opened(engines, engine_bundle.make(tmp_path / "b", closed_form.entry("delta")))
    see(engines, tmp_path)
    asked = questions(PROMPTS)
    for _ in range(2):
        engines("answer", questions=asked, max_new_tokens=20, batch=0)
    *_, before = engines("held")
    engines("answer", questions=asked, max_new_tokens=20, batch=0)
    assert engines("held")[-1] == before


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_memory_is_said_and_the_lane_can_go_on(engines: Engines, tmp_path: Path, kind: str) -> None:
    entry = closed_form.entry(kind)
    opened(engines, engine_bundle.make(tmp_path / "b", entry))
    see(engines, tmp_path)
    asked = questions(PROMPTS)
    engines("capacity", bytes=engines("held")[1] + 3000)
    with pytest.raises(Refused) as refused:
        engines("answer", questions=asked, max_new_tokens=20, batch=4)
    assert refused.value.kind == "EnvironmentLack"
    message = str(refused.value)
    assert "decoder cannot run on 4 rows at once: the GPU has too little free memory: cudaMalloc of " in message
    assert message.endswith("Give it fewer at a time (--batch), or shorter ones, or end other programs.")
    engines("capacity", bytes=1 << 30)
    expected = answers_of_python(entry, asked, Settings(max_new_tokens=20))
    assert engines("answer", questions=asked, max_new_tokens=20, batch=0) == expected


def test_values_that_are_not_finite_are_no_answer(engines: Engines, tmp_path: Path) -> None:
    """The fake decoder overflows on one brightness."""
    opened(engines, engine_bundle.make(tmp_path / "b", closed_form.entry("delta")))
    for seed in range(100):
        PICTURES["x"] = np.random.default_rng(seed).integers(0, 256, (9, 14, 3), np.uint8)
        if engine_bundle.brightness(images.preprocess(Image.fromarray(PICTURES["x"]), SPEC)) == 12:
            break
    see(engines, tmp_path, "x")
    with pytest.raises(
        Refused, match="the decoder gave logits that are not finite: its precision overflows"
    ) as refused:
        engines("answer", questions=questions([[5]], "x"), max_new_tokens=2, batch=0)
    assert refused.value.kind == "VerdictError"


def test_tensors_through_one_component(engines: Engines, tmp_path: Path) -> None:
    entry = closed_form.entry("delta")
    opened(engines, engine_bundle.make(tmp_path / "b", entry))
    generator = np.random.default_rng(0)
    feed = {
        "input_ids": generator.integers(0, 20, (2, 1)),
        "position_ids": np.full((2, 1), 5),
        "attention_mask": np.array([[0, 0, 1, 1, 1, 1], [1] * 6]),
        "logits_positions": np.zeros((2, 1), np.int64),
        "visual_memory": np.full((2, 2, 2), 3, np.float32),
    }
    keys = generator.integers(0, 61, (2, 1, 5, 1))
    for name in (port["name"] for port in entry["inputs"] if "past" in port["name"]):
        feed[name] = (keys + closed_form.tagged(name)).astype(np.float32)
    given = {}
    for name, array in feed.items():
        array.tofile(tmp_path / name)
        given[name] = {"file": tmp_path / name, "dtype": str(array.dtype), "shape": list(array.shape)}
    asked = {"component": "decoder", "inputs": given, "folder": tmp_path}
    shapes = engines("run", outputs=[], **asked)
    expected = closed_form.compute(feed, "delta")
    assert shapes == {name: ["float32", list(array.shape)] for name, array in expected.items()}
    for name, array in expected.items():
        np.testing.assert_array_equal(np.fromfile(tmp_path / name, np.float32).reshape(array.shape), array)
    assert list(engines("run", outputs=["logits", "logits"], **asked)) == ["logits"]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "logits", np.float32), expected["logits"].ravel())
    wrong: list[tuple[dict[str, Any], list[str], str]] = [
        ({"dtype": "float32"}, [], "the input 'input_ids' is float32, the graph takes int64"),
        ({"shape": [2, 2]}, [], "the input 'input_ids' has 16 bytes, which are no int64 of the shape [2, 2]"),
        ({"shape": [2**61 + 2]}, [], "the input 'input_ids' has 16 bytes, which are no int64 of the shape [230584300"),
        ({}, ["logit"], "decoder has no output 'logit'; it gives logits, present.0.key"),
        (
            {"shape": [1, 2]},
            [],
            "the input 'position_ids' has the shape [2, 1]; beside the other inputs it takes [1, 2]",
        ),
    ]
    for changed, outputs, message in wrong:
        inputs = {**given, "input_ids": {**given["input_ids"], **changed}}
        with pytest.raises(Refused) as refused:
            engines("run", outputs=outputs, **{**asked, "inputs": inputs})
        assert str(refused.value).startswith(message)
    with pytest.raises(Refused, match="has no component 'encoder'; its components are vision, decoder"):
        engines("run", outputs=[], **{**asked, "component": "encoder"})
    with pytest.raises(Refused, match=r"vision needs the input 'pixel_values' \['batch', 3, 6, 6\] float32"):
        engines("run", outputs=[], **{**asked, "component": "vision", "inputs": {}})


def test_an_engine_of_other_ports_than_its_manifest_says(engines: Engines, tmp_path: Path) -> None:
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    good = engine_bundle.whole_entry(closed_form.entry("delta"), number=1)
    lies = {
        "inputs": {**good, "inputs": good["inputs"][1:]},
        "outputs": {**good, "outputs": [{**good["outputs"][0], "dtype": "float16"}, *good["outputs"][1:]]},
        "profiles": {**good, "profiles": good["profiles"][:1]},
    }
    for number, (what, told) in enumerate(lies.items()):
        entry = {**good, "file": f"engines/{number}.engine", "layers": f"engines/{number}.json"}
        engine_bundle.enter(root, entry, files={entry["file"]: json.dumps(told).encode()})
        with pytest.raises(Refused, match=f"has other {what} than its manifest says: build it again"):
            opened(engines, root)


def test_an_engine_of_another_cache_than_its_manifest_says(engines: Engines, tmp_path: Path) -> None:
    told, made = (engine_bundle.whole_entry(closed_form.entry(kind), number=1) for kind in ("delta", "concat"))
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    engine_bundle.enter(root, told, files={told["file"]: json.dumps(made).encode()})
    opened(engines, root)
    with pytest.raises(Refused, match=r"present.0.key came back as \[1, 2, 3, 3\] after 2 columns of past and 1 new"):
        engines("answer", questions=[{"ids": [5, 4]}], max_new_tokens=5, batch=0)


def test_an_engine_that_does_not_load_or_run_says_tensorrts_reason(engines: Engines, tmp_path: Path) -> None:
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    broken = engine_bundle.whole_entry(closed_form.entry("delta"), number=1)
    engine_bundle.enter(root, broken, files={broken["file"]: b"no engine"})
    with pytest.raises(Refused) as refused:
        opened(engines, root)
    expected = f"cannot load {root}/{broken['file']} on this machine. TensorRT says: Magic tag does not match"
    assert str(refused.value) == f"tensorrt 10.13.3.9 {expected}" and refused.value.kind == "EnvironmentLack"
    engine_bundle.enter(root, engine_bundle.whole_entry({**closed_form.entry("delta"), "fails": True}, number=2))
    opened(engines, root)
    asked = {"questions": [{"ids": [5, 4]}], "max_new_tokens": 5, "batch": 0}
    with pytest.raises(Refused, match=r"the engine of decoder cannot be run on these inputs\. the tactic was lost"):
        engines("answer", **asked)
    # What was said of one call is no reason of the next.
    with pytest.raises(Refused, match=r"the engine of decoder cannot be run on these inputs\.$"):
        engines("answer", **asked)


HERE: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "another TensorRT": ({"FAKE_TENSORRT": "10.3.0.26"}, {}, "built with TensorRT 10.13.3.9, here is 10.3.0.26: "),
    "another GPU": ({"FAKE_SM": "80"}, {}, "for compute capability 9.0 (NVIDIA H200), NVIDIA H200 has 8.0: "),
    "no driver": ({"FAKE_DRIVER": "0"}, {}, "no GPU can be used here: no NVIDIA driver is installed: a GPU is needed."),
    "no GPU": (
        {"FAKE_GPUS": "0"},
        {},
        "no GPU can be used here: the NVIDIA driver (CUDA 13.0) cannot be used: no CUDA-capable device is detected. "
        "Update it.",
    ),
    "an old driver": ({"FAKE_DRIVER": "12040"}, {}, "supports CUDA 12.4, the CUDA runtime here is 13.0"),
    "no such GPU": ({}, {"device": 3}, "cudaSetDevice failed: invalid device ordinal"),
    "a lost GPU": ({"FAKE_FAILURE": "1"}, {}, ""),
}


@pytest.mark.parametrize("name", HERE)
def test_a_machine_that_cannot_run_the_engines(engine_program: Path, tmp_path: Path, name: str) -> None:
    variables, options, message = HERE[name]
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    engines = Probe([engine_program], {**os.environ, **variables})
    if name == "a lost GPU":
        opened(engines, root)
        with pytest.raises(Refused, match="cudaStreamSynchronize failed: something else"):
            engines("answer", questions=[{"ids": [5, 4]}], max_new_tokens=5, batch=0)
    else:
        with pytest.raises(Refused) as refused:
            opened(engines, root, **options)
        assert refused.value.kind == "EnvironmentLack" and message in str(refused.value)
    engines("close")
    engines.close()


def test_an_engine_that_was_edited_is_not_loaded(engines: Engines, tmp_path: Path) -> None:
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    file = next(root.glob("engines/*/decoder.*.engine"))
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    name = file.relative_to(root)
    with pytest.raises(Refused) as refused:
        opened(engines, root)
    damage = "the bundle is edited: the engine's bytes are not those of its manifest. Build or copy it again."
    assert (refused.value.kind, str(refused.value)) == ("InputError", f"{name}: {damage}")


def test_the_engines_are_named(engines: Engines, tmp_path: Path) -> None:
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    files = [f"engines/tensorrt-10.13.3.9-sm90/{name}.fp32.0.engine (native)" for name in ("vision", "decoder")]
    assert opened(engines, root) == f"the engines that run, for tensorrt: {', '.join(files)}"
    with pytest.raises(Refused, match="has no bf16 engine; it has engines in fp32: give --precision"):
        opened(engines, root, precision="bf16")


def test_a_family_that_is_not_answered_for(engines: Engines, tmp_path: Path) -> None:
    from .test_bundles import signed

    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    signed(lambda manifest: manifest.update(family="apt-stable-diffusion"))(root)
    opened(engines, root)
    with pytest.raises(Refused, match="of the family apt-stable-diffusion: this version writes for memvp-llama"):
        engines("answer", questions=[{"ids": [5]}], max_new_tokens=1, batch=0)
