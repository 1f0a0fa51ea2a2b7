"""One answer, many, or raw tensors: the same numbers whichever way they are asked for."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Answer, read_answers
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.npz import read_npz
from memvp_export.exporter.parity.samples import read_cases, read_samples
from memvp_export.exporter.run import run, run_component, run_file
from memvp_export.exporter.scienceqa import prompt
from memvp_export.exporter.settings import Settings

TEXTS = ("What is in the picture?", "is", "Options: (A) the (B) picture", "", "which word? " * 5)
LONG = Settings(max_new_tokens=6)


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle_of("fp32"))


def data_file(folder: Path, bundle: Bundle, count: int = 10) -> Path:
    """Questions of several lengths, with the one picture, the other, and none."""
    images = [bundle.path("samples/images/0.png"), bundle.path("samples/images/1.png"), None]
    path = folder / "in.jsonl"
    with path.open("w") as file:
        for i in range(count):
            line: dict[str, Any] = {"id": str(i), "text": f"{i} {TEXTS[i % len(TEXTS)]}"}
            if image := images[i % 3]:
                line["image"] = str(image)
            file.write(json.dumps(line) + "\n")
    return path


def answer_file(folder: Path, bundle: Bundle, **changes: Any) -> list[Answer]:
    out = folder / "out.jsonl"
    run_file(bundle, folder / "in.jsonl", out, Settings(**{"max_new_tokens": 6, **changes}))
    return list(read_answers(out))


def test_one_at_a_time_in_batches_and_alone_give_the_same_answers(bundle: Bundle, tmp_path: Path) -> None:
    path = data_file(tmp_path, bundle)
    batched = answer_file(tmp_path, bundle, batch=8)
    assert [answer.id for answer in batched] == [str(i) for i in range(10)]
    assert len({answer.ids for answer in batched}) > 3
    assert answer_file(tmp_path, bundle, batch=1) == batched
    for line, expected in zip(path.read_text().splitlines(), batched, strict=True):
        request = json.loads(line)
        alone = run(bundle, request["text"], request.get("image"), settings=LONG)
        assert (alone.text, alone.ids) == (expected.text, expected.ids)


def test_an_answer_depends_on_the_image(bundle: Bundle) -> None:
    images = [bundle.path("samples/images/0.png"), bundle.path("samples/images/1.png"), None]
    assert len({run(bundle, TEXTS[0], image, settings=LONG).ids for image in images}) > 1


def test_the_bundles_own_questions_get_the_references_answers(bundle: Bundle) -> None:
    for request, expected in read_samples(bundle):
        assert run(bundle.root, request.text, request.image).ids == expected.ids


def test_choices_ask_the_official_prompt_for_one_token(bundle: Bundle) -> None:
    answer = run(bundle, "Which?", choices=["sea", "sun"], hint="N/A", settings=LONG)
    assert len(answer.ids) <= 1 and answer.choice in (-1, 0, 1)
    assert answer.ids == run(bundle, prompt("Which?", "N/A", ["sea", "sun"]), settings=Settings(1)).ids


def test_more_choices_than_letters_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="27 choices"):
        run(bundle, "Which?", choices=["x"] * 27)


def test_a_stopped_run_goes_on_and_a_finished_one_is_answered_again(bundle: Bundle, tmp_path: Path) -> None:
    path, out = data_file(tmp_path, bundle), tmp_path / "out.jsonl"
    whole = answer_file(tmp_path, bundle)
    out.unlink()
    told: list[str] = []

    def stop(requests: Any, answers: Any) -> None:
        assert [request.id for request in requests] == [answer.id for answer in answers]
        told.extend(answer.id for answer in answers)
        if len(told) == 6:
            raise KeyboardInterrupt

    settings = Settings(max_new_tokens=6, batch=3)
    with pytest.raises(KeyboardInterrupt):
        run_file(bundle, path, out, settings, answered=stop)
    assert not out.exists()
    assert run_file(bundle, path, out, Settings(max_new_tokens=6, batch=2)) == 4
    assert list(read_answers(out)) == whole
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["in.jsonl", "out.jsonl"]
    assert run_file(bundle, path, out, settings) == 10 and list(read_answers(out)) == whole


def test_the_bundles_precision_by_name_is_the_same_run(bundle: Bundle, tmp_path: Path) -> None:
    path, out = data_file(tmp_path, bundle, 4), tmp_path / "out.jsonl"

    def stop(requests: Any, answers: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_file(bundle, path, out, Settings(2, batch=1), answered=stop)
    assert run_file(bundle, path, out, Settings(2), precision="fp32") == 3


def test_an_image_that_was_exchanged_starts_anew(bundle: Bundle, tmp_path: Path) -> None:
    image, out = tmp_path / "image.png", tmp_path / "out.jsonl"
    lines = [{"id": str(i), "text": "x", "image": "image.png"} for i in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def stop(requests: Any, answers: Any) -> None:
        raise KeyboardInterrupt

    for name, expected in (("0.png", 2), ("1.png", 3)):
        shutil.copyfile(bundle.path("samples/images/0.png"), image)
        os.utime(image, ns=(1, 1))
        with pytest.raises(KeyboardInterrupt):
            run_file(bundle, tmp_path / "in.jsonl", out, Settings(2, batch=1), answered=stop)
        shutil.copyfile(bundle.path(f"samples/images/{name}"), image)
        os.utime(image, ns=(1, 1))
        assert run_file(bundle, tmp_path / "in.jsonl", out, Settings(2)) == expected
    answers = list(read_answers(out))
    assert answers[0].ids == run(bundle, "x", image, settings=Settings(2)).ids


def test_other_settings_or_no_resume_start_anew(bundle: Bundle, tmp_path: Path) -> None:
    path, out = data_file(tmp_path, bundle, 4), tmp_path / "out.jsonl"

    def stop(requests: Any, answers: Any) -> None:
        raise KeyboardInterrupt

    for settings, resume, expected in ((Settings(2, batch=2), False, 4), (Settings(3, batch=2), True, 4)):
        with pytest.raises(KeyboardInterrupt):
            run_file(bundle, path, out, Settings(2, batch=2), answered=stop)
        assert run_file(bundle, path, out, settings, resume) == expected


def test_a_run_that_is_killed_goes_on_where_it_was(bundle: Bundle, tmp_path: Path) -> None:
    path, out = data_file(tmp_path, bundle, 120), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", "from memvp_export.cli import main; main()", "run", str(bundle.root)]
    command += ["--data", str(path), "-o", str(out), "--batch", "2", "--max-new-tokens", "6"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while not any(left.stat().st_size for left in tmp_path.glob(".out.jsonl.partial-*")):
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    (left,) = tmp_path.glob(".out.jsonl.partial-*")
    done = left.read_bytes().count(b"\n")
    assert 0 < done < 120 and not out.exists()
    answered: list[str] = []
    settings = Settings(6, batch=8)
    count = run_file(bundle, path, out, settings, answered=lambda _, a: answered.extend(one.id for one in a))
    assert count == len(answered) == 120 - done
    assert [answer.id for answer in read_answers(out)] == [str(i) for i in range(120)]
    assert not list(tmp_path.glob(".*"))


def test_raw_tensors_go_through_a_component_by_name(bundle: Bundle, tmp_path: Path) -> None:
    for case in read_cases(bundle):
        inputs, output = tmp_path / "in.npz", tmp_path / "out.npz"
        np.savez(inputs, **case.inputs)  # type: ignore[arg-type]
        run_component(bundle.root, case.component, inputs, output)
        found = read_npz(output)
        assert found.keys() >= case.outputs.keys()
        used = case.inputs["attention_mask"] != 0 if "attention_mask" in case.inputs else slice(None)
        for name in case.outputs.keys() & {"logits", "visual_memory"}:
            if found[name].shape[:2] == np.shape(used) or name == "visual_memory":
                assert np.allclose(found[name][used], case.outputs[name][used], atol=1e-4)
    assert not list(tmp_path.glob(".*"))


def test_bfloat16_crosses_npz_as_uint16_under_its_own_name(bundle: Bundle, tmp_path: Path) -> None:
    (case,) = (case for case in read_cases(bundle) if case.component == "decoder" and case.name == "long")
    visual = case.inputs["visual_memory"].astype(ml_dtypes.bfloat16)
    rest = {name: array for name, array in case.inputs.items() if name != "visual_memory"}
    np.savez(tmp_path / "in.npz", **{**rest, "visual_memory.bf16": visual.view(np.uint16)})  # type: ignore[arg-type]
    read = read_npz(tmp_path / "in.npz")["visual_memory"]
    assert read.dtype == ml_dtypes.bfloat16 and np.array_equal(read, visual)
    found = run_component(bundle, "decoder", tmp_path / "in.npz", tmp_path / "out.npz")["logits"]
    assert 0 < np.abs(found - case.outputs["logits"]).max() < 0.5


def _npz(**arrays: Any) -> Callable[[Path], object]:
    return lambda path: np.savez(path.open("wb"), **arrays)


def _cut(path: Path) -> None:
    np.savez(path, pixel_values=np.ones(1000))
    path.write_bytes(path.read_bytes()[:-30])


def _flipped(path: Path) -> None:
    np.savez(path, pixel_values=np.ones(1000))
    data = bytearray(path.read_bytes())
    data[400] ^= 255
    path.write_bytes(data)


def _giant(path: Path) -> None:
    """A header that claims a petabyte."""
    import zipfile

    header = str({"descr": "<f8", "fortran_order": False, "shape": (1 << 47,)}).ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())


NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is not a file"),
    "folder": (Path.mkdir, "not a whole npz file"),
    "empty": (Path.touch, "not a whole npz file"),
    "garbage": (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "not a whole npz file"),
    "one array as npy": (lambda path: np.save(path.open("wb"), np.ones(3)), "not a whole npz file"),
    "cut short": (_cut, "not a whole npz file"),
    "a flipped byte": (_flipped, "not a whole npz file"),
    "objects, which would run code": (_npz(x=np.array([{}], object)), "not a whole npz file"),
    "larger than any memory": (_giant, "not a whole npz file"),
}


@pytest.mark.parametrize(("make", "message"), NPZ.values(), ids=list(NPZ))
def test_files_that_are_no_arrays_are_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "in.npz")
    with pytest.raises(InputError, match=message):
        read_npz(tmp_path / "in.npz")


def test_outputs_do_not_replace_their_inputs_or_a_folder(bundle: Bundle, tmp_path: Path) -> None:
    (case,) = (case for case in read_cases(bundle) if case.component == "vision")
    path = tmp_path / "in.npz"
    np.savez(path, **case.inputs)  # type: ignore[arg-type]
    before = path.read_bytes()
    (tmp_path / "link.npz").symlink_to(path)
    for output in (path, tmp_path / "link.npz", tmp_path):
        with pytest.raises(InputError, match=r"destroy|is a folder"):
            run_component(bundle, "vision", path, output)
    assert path.read_bytes() == before
    with pytest.raises(EnvironmentLack, match="cannot be written"):
        run_component(bundle, "vision", path, Path("/proc/no-such/out.npz"))


def test_two_images_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    image = str(bundle.path("samples/images/0.png"))
    line = {"id": "1", "text": "x", "image": image, "image_2": image}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match="two images"):
        answer_file(tmp_path, bundle)
    assert not (tmp_path / "out.jsonl").exists()
