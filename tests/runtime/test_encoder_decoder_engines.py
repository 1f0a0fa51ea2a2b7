"""Models that write after an encoder, over a fake TensorRT and CUDA: the Python pipeline's answers, greedy and with
beams. Nothing here shows that a real GPU gives them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import VerdictError
from memvp_export.exporter.image_features import pool_features
from memvp_export.exporter.images import clip_preprocessing, preprocess
from memvp_export.exporter.session import require_finite
from memvp_export.exporter.settings import Settings
from PIL import Image

from . import closed_form, engine_bundle
from .closed_form import port
from .conftest import Refused
from .engine_bundle import brightness
from .test_encoder_decoder import SPEC, START, TEXTS, TOKENIZER, entries, pipeline
from .test_engines import KINDS, PICTURES, opened, questions, see

Engines = Callable[..., Any]
# Largest values of four are above 0 about every second time.
GRIDS = {name: np.random.default_rng(seed).normal(-1, 1, (16, 3)).astype(np.float32) for seed, name in enumerate("abc")}
GENERATION = {**START, "no_repeat_ngram_size": 3, "min_length": 3, "num_beams": 3, "max_sequence": 32}
TEXT = {**TOKENIZER, "type": "sentencepiece", "file": "tokenizer.model"}


def vision(dtype: str = "float32", shown: dict[str, Any] | None = None) -> dict[str, Any]:
    """A vision engine without an indicator, for two images at a time."""
    made = engine_bundle.vision_entry(dtype)
    image = shown or port("image_features", "float32", "batch", SPEC["rows"], SPEC["width"])
    limits = {"min": [1, *image["dims"][1:]], "opt": [1, *image["dims"][1:]], "max": [2, *image["dims"][1:]]}
    return {**made, "inputs": [image], "profiles": [{"name": "default", "shapes": {image["name"]: limits}}]}


def bundle(root: Path, made: dict[str, Any], precision: str = "fp32", **changed: Any) -> Path:
    seeing = vision("float16" if precision == "fp16" else "float32")
    parts = {name: engine_bundle.half(entry) if precision == "fp16" else entry for name, entry in made.items()}
    described = {"preprocessing": SPEC, "generation": GENERATION, "tokenizer": TEXT, **changed}
    return engine_bundle.make(root, parts["decoder"], seeing, precision, parts["encoder"], **described)


def see_features(engines: Engines, folder: Path, **more: Any) -> None:
    asked = {}
    for name, grid in GRIDS.items():
        grid.tofile(folder / f"{name}.features")
        asked[name] = {"file": folder / f"{name}.features", "rows": grid.shape[0], "width": grid.shape[1]}
    engines("see features", features=asked, **more)


def answers_of_python(made: dict[str, Any], asked: list[dict[str, Any]], settings: Settings) -> list[list[int]]:
    bright = {name: brightness(pool_features(grid, SPEC["rows"])) for name, grid in GRIDS.items()}
    return written_by_python(made, asked, settings, {**bright, "": 0})


def written_by_python(
    made: dict[str, Any], asked: list[dict[str, Any]], settings: Settings, bright: dict[str, int]
) -> list[list[int]]:
    session = closed_form.ClosedFormSession(made["decoder"]["cache"]["kind"], [bright[each["image"]] for each in asked])
    python = pipeline(made, GENERATION, session)
    # The session knows what each row is about.
    python.inputs = lambda requests: {"image_features": np.zeros((len(requests), 1), np.float32)}  # type: ignore[method-assign]
    python.shown = lambda requests, visual: visual  # type: ignore[method-assign]
    requests = [Request(str(number), " ".join(map(str, each["ids"]))) for number, each in enumerate(asked)]
    return [list(answer.ids) for answer in python.answer(requests, settings)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_answers_are_the_python_pipelines(engines: Engines, tmp_path: Path, kind: str, precision: str) -> None:
    """Several batches of texts of several lengths, with and without images, features that are pooled, and beams."""
    made = entries(kind, max_batch=6)
    opened(engines, bundle(tmp_path / "b", made, precision))
    see_features(engines, tmp_path)
    asked = questions(TEXTS)
    for new, batch, beams in ((1, 0, 1), (9, 0, 1), (32, 4, 1), (9, 0, 3), (12, 2, 2), (32, 1, 6)):
        expected = answers_of_python(made, asked, Settings(new, batch=batch or None, beams=beams))
        assert engines("answer", questions=asked, max_new_tokens=new, batch=batch, beams=beams) == expected
    assert engines("settings") == [9, 3]


@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_a_memory_beside_one_part_alone(engines: Engines, tmp_path: Path, place: str) -> None:
    made = entries(max_batch=6)
    bare = made["decoder" if place == "encoder" else "encoder"]
    bare["inputs"] = [each for each in bare["inputs"] if each["name"] != "visual_memory"]
    for profile in bare["profiles"]:
        profile["shapes"].pop("visual_memory")
    opened(engines, bundle(tmp_path / "b", made))
    see_features(engines, tmp_path)
    asked = questions(TEXTS)
    for beams in (1, 3):
        expected = answers_of_python(made, asked, Settings(9, beams=beams))
        assert engines("answer", questions=asked, max_new_tokens=9, batch=0, beams=beams) == expected


def test_pictures_of_a_model_with_a_tower(engines: Engines, tmp_path: Path) -> None:
    made, spec = entries(), clip_preprocessing(7)
    seeing = vision(shown=port("pixel_values", "float32", "batch", 3, 7, 7))
    described = {"preprocessing": spec, "generation": GENERATION, "tokenizer": TEXT}
    opened(engines, engine_bundle.make(tmp_path / "b", made["decoder"], seeing, "fp32", made["encoder"], **described))
    see(engines, tmp_path)
    bright = {name: brightness(preprocess(Image.fromarray(PICTURES[name]), spec)) for name in "abc"}
    asked = questions(TEXTS)
    expected = written_by_python(made, asked, Settings(9), {**bright, "": 0})
    assert engines("answer", questions=asked, max_new_tokens=9, batch=0) == expected
    with pytest.raises(Refused, match="this model takes pictures, and no features of them"):
        see_features(engines, tmp_path)


def test_ports_of_32_bits(engines: Engines, tmp_path: Path) -> None:
    made = entries(max_batch=6)
    narrow = {
        name: {
            **entry,
            "inputs": [{**each, "dtype": each["dtype"].replace("int64", "int32")} for each in entry["inputs"]],
        }
        for name, entry in made.items()
    }
    opened(engines, bundle(tmp_path / "b", narrow))
    see_features(engines, tmp_path)
    asked = questions(TEXTS)
    expected = answers_of_python(made, asked, Settings(9, beams=3))
    assert engines("answer", questions=asked, max_new_tokens=9, batch=0, beams=3) == expected


def test_lanes_run_side_by_side(engines: Engines, tmp_path: Path) -> None:
    made = entries(max_batch=8)
    opened(engines, bundle(tmp_path / "b", made))
    see_features(engines, tmp_path)
    asked = questions(TEXTS)
    expected = answers_of_python(made, asked, Settings(9, beams=4))
    assert engines("answer side by side", questions=asked, max_new_tokens=9, batch=0, beams=4) == [expected] * 4


@pytest.mark.parametrize("kind", KINDS[:2])
def test_memory_is_kept_and_too_little_of_it_is_said(engines: Engines, tmp_path: Path, kind: str) -> None:
    made = entries(kind, max_batch=9)
    opened(engines, bundle(tmp_path / "b", made))
    see_features(engines, tmp_path)
    asked = {"questions": questions(TEXTS), "max_new_tokens": 20, "batch": 0}
    engines("capacity", bytes=engines("held")[1] + 4000)
    with pytest.raises(Refused, match="cannot run on 9 rows at once: the GPU has too little free memory"):
        engines("answer", **asked, beams=3)
    engines("capacity", bytes=1 << 30)
    expected = answers_of_python(made, asked["questions"], Settings(20, beams=3))
    assert engines("answer", **asked, beams=3) == expected
    for _ in range(2):
        engines("answer", **asked, beams=3)
    *_, before = engines("held")
    engines("answer", **asked, beams=3)
    assert engines("held")[-1] == before


def test_what_cannot_be_answered(engines: Engines, tmp_path: Path) -> None:
    made = entries()
    opened(engines, bundle(tmp_path / "b", made))
    with pytest.raises(Refused, match="this model takes features of an image, which another program makes"):
        see(engines, tmp_path)
    with pytest.raises(Refused, match=r"it is \[2, 3\], this model takes \[L,3\] with L|it has 2 rows"):
        (tmp_path / "two").write_bytes(np.ones((2, 3), np.float32).tobytes())
        engines("see features", features={"two": {"file": tmp_path / "two", "rows": 2, "width": 3}})
    asked = [{"ids": [5, 4]}]
    with pytest.raises(Refused, match="logits are those of an answer's tokens there"):
        engines("logits", questions=asked, positions=[0], file=tmp_path / "logits")
    with pytest.raises(Refused, match="batch is 2 with 3 beams each; the decoder takes at most 4 rows"):
        engines("answer", questions=asked, max_new_tokens=2, batch=2, beams=3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_values_that_are_not_finite_are_no_answer(engines: Engines, tmp_path: Path, precision: str) -> None:
    """The fake decoder overflows on features that are all above 0."""
    opened(engines, bundle(tmp_path / "b", entries(), precision))
    np.ones((4, 3), np.float32).tofile(tmp_path / "x.features")
    engines("see features", features={"x": {"file": tmp_path / "x.features", "rows": 4, "width": 3}})
    bad = np.array([np.inf], np.float32)
    with pytest.raises(VerdictError) as expected:
        require_finite(bad, "the decoder gave logits", precision)
    for beams in (1, 2):
        with pytest.raises(Refused) as refused:
            engines("answer", questions=questions([[5]], "x"), max_new_tokens=2, batch=0, beams=beams)
        assert (refused.value.kind, str(refused.value)) == ("VerdictError", str(expected.value))


def test_engines_that_do_not_fit_together(engines: Engines, tmp_path: Path) -> None:
    made = entries()
    mixed = {**made, "encoder": engine_bundle.half(made["encoder"])}
    opened(engines, bundle(tmp_path / "b", mixed))
    with pytest.raises(Refused, match=r"encoder gives present.0.encoder.key as float16, that of decoder takes float32"):
        engines("answer", questions=[{"ids": [5, 4]}], max_new_tokens=2, batch=0)
