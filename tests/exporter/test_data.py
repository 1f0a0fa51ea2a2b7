"""Request files say where they are wrong; answer files survive a kill and never mix two runs."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.data import Answer, AnswerFile, Request, read_answers, read_requests
from memvp_export.exporter.errors import InputError

GOOD = {"id": "1", "text": "what?"}


def line(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def write(folder: Path, *lines: str) -> Path:
    path = folder / "in.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("images/a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    path = write(
        tmp_path,
        line(image="images/a.png", image_2=str(tmp_path / "b.png"), choices=["x", "y"], answer=1),
        "",
        line(id="2", text="", answer="red", image=None),
        "   ",
        line(id="3", text="größe?", answer=["red", "dark red"]),
        line(id="4", text="a {}", choices=list(map(str, range(30))), answer=29) + "\n",
    )
    assert list(read_requests(path)) == [
        Request("1", "what?", tmp_path / "images/a.png", tmp_path / "b.png", ("x", "y"), 1),
        Request("2", "", answer="red"),
        Request("3", "größe?", answer=("red", "dark red")),
        # Labels, which may be more than letters.
        Request("4", "a {}", choices=tuple(map(str, range(30))), answer=29),
    ]


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line().encode())
    assert [request.id for request in read_requests(path)] == ["1"]


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    requests = read_requests(write(tmp_path, line(), "not JSON"))
    assert next(requests).id == "1"
    with pytest.raises(InputError, match=r"in\.jsonl:2: the line is not whole JSON"):
        next(requests)


BAD = {
    "cut": ('{"id": "1", "te', "not whole JSON"),
    "list file": ("[", "JSON list"),
    "list": ('[{"id": "1"}]', "JSON list"),
    "number": ("3", "no JSON object"),
    "deep": ('{"id":' * 100_000, "not whole JSON"),
    "no id": ('{"text": "x"}', "'id' is missing"),
    "no text": ('{"id": "x"}', "'text' is missing"),
    "id a number": (line(id=7), "'id' must be a string, not 7"),
    "empty id": (line(id=""), "id is empty"),
    "text null": (line(text=None), "'text' must be a string"),
    "unknown key": (line(picture="a.png"), "unknown key 'picture'; the keys are id, text, image"),
    "missing image": (line(image="no/such.png"), r"image .*no/such\.png is not a file"),
    "missing second image": (line(image_2="no.png"), r"no\.png is not a file"),
    "image a folder": (line(image="."), "is not a file"),
    "image a number": (line(image=4), "'image' must be the path"),
    "image empty": (line(image=""), "'image' must be the path"),
    "nul in image": (line(image="a\0b"), "is not a file"),
    "choices a string": (line(choices="ab"), "'choices' must be a list of strings"),
    "choices of numbers": (line(choices=[1]), "'choices' must be a list of strings"),
    "no choices": (line(choices=[]), "has 0 entries"),
    "answer beyond choices": (line(choices=["x"], answer=1), "no index"),
    "answer without choices": (line(answer=0), "no index"),
    "answer a bool": (line(answer=True), "'answer' must be"),
    "answer an object": (line(answer={}), "'answer' must be"),
    "answers of numbers": (line(answer=[1]), "'answer' must be a list of strings"),
    "same id": (line(id="0"), "'0' was used on line 1"),
    "half a character": (line(text="\ud800"), "surrogate"),
}


@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=list(BAD))
def test_bad_lines_are_named(tmp_path: Path, bad: str, words: str) -> None:
    with pytest.raises(InputError, match=rf"in\.jsonl:3: .*{words}") as caught:
        list(read_requests(write(tmp_path, line(id="0"), "", bad, line(id="9"))))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(InputError, match=":1: the line is not UTF-8"):
        list(read_requests(path))


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            list(read_requests(path))


SETTINGS = {"max_new_tokens": 3}


def source(folder: Path, count: int = 5) -> Path:
    return write(folder, *(line(id=str(i)) for i in range(count)))


def answered(number: int) -> Answer:
    return Answer(str(number), f"it is {number} \u2028 ü", (number, 7), None, False)


def open_answers(folder: Path, bundle: str = "b", resume: bool = True, **settings: Any) -> AnswerFile:
    return AnswerFile(folder / "out.jsonl", [folder / "in.jsonl"], bundle, {**SETTINGS, **settings}, resume)


def stop_after(folder: Path, count: int, **settings: Any) -> Path:
    with pytest.raises(KeyboardInterrupt), open_answers(folder, **settings) as file:
        for number in range(count):
            file.write([answered(number)])
        raise KeyboardInterrupt
    return file.partial


def test_a_whole_run(tmp_path: Path) -> None:
    requests = read_requests(source(tmp_path))
    with open_answers(tmp_path) as file:
        for request in file.pending(requests):
            assert not (tmp_path / "out.jsonl").exists()
            file.write([answered(int(request.id))])
    assert list(read_answers(tmp_path / "out.jsonl")) == [answered(i) for i in range(5)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    source(tmp_path, 1)
    answer = Answer("0", "cat", (1,), 1, True, (("cat", 0.75), ("dog", 0.25)))
    with open_answers(tmp_path) as file:
        file.write([answer])
    assert list(read_answers(tmp_path / "out.jsonl")) == [answer]
    for top in ([["cat", "much"]], [["cat"]], 1):
        (tmp_path / "out.jsonl").write_text(json.dumps(answer.to_dict() | {"top": top}))
        with pytest.raises(InputError, match=":1: the line is no answer"):
            list(read_answers(tmp_path / "out.jsonl"))


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    path = source(tmp_path)
    partial = stop_after(tmp_path, 2)
    assert partial.name.startswith(".out.jsonl.partial-") and not (tmp_path / "out.jsonl").exists()
    with open_answers(tmp_path) as file:
        assert file.done == {"0", "1"}
        pending = [int(request.id) for request in file.pending(read_requests(path))]
        assert pending == [2, 3, 4]
        file.write(map(answered, pending))
    assert [answer.id for answer in read_answers(tmp_path / "out.jsonl")] == list("01234")
    assert not partial.exists()


@pytest.mark.parametrize("tail", [b'{"id": "2", "te', b"\0" * 40, json.dumps({"id": "2"}).encode() + b"\n"])
def test_a_damaged_tail_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = source(tmp_path)
    partial = stop_after(tmp_path, 2)
    partial.write_bytes(partial.read_bytes() + tail)
    with open_answers(tmp_path) as file:
        file.write(answered(int(request.id)) for request in file.pending(read_requests(path)))
    assert [answer.id for answer in read_answers(tmp_path / "out.jsonl")] == list("01234")


def test_a_last_line_without_its_end_is_answered_again(tmp_path: Path) -> None:
    source(tmp_path)
    partial = stop_after(tmp_path, 2)
    partial.write_bytes(partial.read_bytes()[:-1])
    with pytest.raises(KeyboardInterrupt), open_answers(tmp_path) as file:
        assert file.done == {"0"}
        raise KeyboardInterrupt


@pytest.mark.parametrize("changed", ["input", "bundle", "settings", "no resume"])
def test_another_run_starts_anew(tmp_path: Path, changed: str) -> None:
    source(tmp_path)
    partial = stop_after(tmp_path, 2)
    options: dict[str, Any] = {
        "input": {},
        "bundle": {"bundle": "c"},
        "settings": {"max_new_tokens": 4},
        "no resume": {"resume": False},
    }[changed]
    if changed == "input":
        source(tmp_path, 6)
    with pytest.raises(KeyboardInterrupt), open_answers(tmp_path, **options) as file:
        assert file.done == set()
        assert partial.exists() == (changed == "no resume")
        file.write([answered(0)])
        raise KeyboardInterrupt
    assert len(list(tmp_path.glob(".out.jsonl.partial-*"))) == 1


def test_answers_to_other_input_are_noticed(tmp_path: Path) -> None:
    path = source(tmp_path)
    partial = stop_after(tmp_path, 2)
    partial.write_bytes(partial.read_bytes() + json.dumps({"id": "x", "text": "", "ids": []}).encode() + b"\n")
    with pytest.raises(InputError, match="'x', which is not in the input"), open_answers(tmp_path) as file:
        list(file.pending(read_requests(path)))
    assert partial.exists()


def test_a_stop_before_the_first_answer_leaves_nothing(tmp_path: Path) -> None:
    source(tmp_path)
    assert not stop_after(tmp_path, 0).exists()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    source(tmp_path)
    partial = stop_after(tmp_path, 1)
    with partial.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"), open_answers(tmp_path):
            pass
        with open_answers(tmp_path, "other bundle"):
            assert partial.exists()


def test_places_that_cannot_be_written_to_are_refused(tmp_path: Path) -> None:
    path = source(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        AnswerFile(tmp_path, [path], "b", SETTINGS)
    with pytest.raises(InputError, match="is an input"):
        AnswerFile(path, [path], "b", SETTINGS)


KILLED = """
import sys, time
from pathlib import Path
from memvp_export.exporter.data import Answer, AnswerFile
folder = Path(sys.argv[1])
with AnswerFile(folder / "out.jsonl", [folder / "in.jsonl"], "b", {"max_new_tokens": 3}) as file:
    file.write([Answer("0", "a", (1,)), Answer("1", "b", (2,))])
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = source(tmp_path)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    with open_answers(tmp_path) as file:
        assert [request.id for request in file.pending(read_requests(path))] == ["2", "3", "4"]


def test_reading_answers_names_what_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.jsonl:1: the line is no answer"):
        list(read_answers(source(tmp_path)))


def test_nothing_here_loads_torch_or_onnx() -> None:
    modules = "data, images, kv_cache, pipeline, scienceqa, tokenization, vqav2"
    code = f"import sys\nfrom memvp_export.exporter import {modules}\n"
    heavy = "print(sorted({'torch', 'onnx', 'onnxruntime', 'PIL', 'sentencepiece'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, check=True).stdout == b"[]\n"
