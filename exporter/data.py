"""Requests from JSONL files, and answers to JSONL files that survive a kill."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .bundle import check_no_file_of_bundle, sha256_file
from .errors import EnvironmentLack, InputError
from .partial import lock, remove_leftovers

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KEYS = ("id", "text", "image", "image_2", "choices", "answer")
_LONGEST_LINE = 16 << 20
_LINE_FORMAT = 1


@dataclass(frozen=True)
class Request:
    """One thing to answer. text is the whole prompt. choices are only for scoring, and the answer is one of their
    letters; or they are labels that the image is compared with, and the text is a template around each.

    answer is what is expected, where that is known: a text, an index into choices, or several accepted texts.
    """

    id: str
    text: str
    image: Path | None = None
    image_2: Path | None = None
    choices: tuple[str, ...] | None = None
    answer: str | int | tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to the request `id`: its text and token ids before the first EOS.

    choice is None where the request had no choices, -1 where the text names none of them (spec 1.6). truncated: the
    prompt was too long and lost its tail. top: the most probable labels with their probabilities, of models that
    compare an image with labels.
    """

    id: str
    text: str
    ids: tuple[int, ...]
    choice: int | None = None
    truncated: bool = False
    top: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON data; `top` only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "top" or value}


def read_requests(path: Path | str) -> Iterator[Request]:
    """The requests of a JSONL file, one at a time; blank lines are skipped, relative image paths start at the file.

    Raises InputError with file:line for bad JSON, missing, unknown or ill-typed keys, repeated ids, missing images.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            request = _request(line, path.parent)
            if request.id in seen:
                raise InputError(f"the id {request.id!r} was used on line {seen[request.id]} already.")
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        seen[request.id] = number
        yield request


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise InputError(
                        f"{path}:{number}: the line is longer than {_LONGEST_LINE >> 20} MiB: is this JSONL?"
                    )
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield number, line
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path} is not a file.") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error


def _request(line: bytes, folder: Path) -> Request:
    data = _object(line)
    if unknown := [key for key in data if key not in _KEYS]:
        raise InputError(f"unknown key {unknown[0]!r}; the keys are {', '.join(_KEYS)}.")
    for key in ("id", "text"):
        if key not in data:
            raise InputError(f"the key {key!r} is missing.")
        if not isinstance(data[key], str):
            raise InputError(f"{key!r} must be a string, not {json.dumps(data[key])[:40]}.")
    if not data["id"]:
        raise InputError("the id is empty.")
    choices = _texts(data, "choices")
    if choices is not None and not choices:
        raise InputError("'choices' has 0 entries: name some, or leave it out.")
    return Request(
        id=data["id"],
        text=data["text"],
        image=_image(data, "image", folder),
        image_2=_image(data, "image_2", folder),
        choices=choices,
        answer=_expected(data, choices),
    )


def _object(line: bytes) -> dict[str, Any]:
    if line.lstrip().startswith(b"["):
        raise InputError("the line begins a JSON list. JSONL has one object a line and no brackets around them.")
    try:
        data = json.loads(line.decode())
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InputError(f"the line is not UTF-8 (byte {error.start}).") from error
    except UnicodeEncodeError as error:
        raise InputError("a text has half of a surrogate pair (\\ud800 to \\udfff), which is no character.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the line is not whole JSON ({error}).") from error
    if not isinstance(data, dict):
        raise InputError('the line is no JSON object; it should look like {"id": "1", "text": "..."}.')
    return data


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    values = data.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{key!r} must be a list of strings.")
    return tuple(values)


def _image(data: Mapping[str, Any], key: str, folder: Path) -> Path | None:
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InputError(f"{key!r} must be the path of an image file, not {json.dumps(value)[:40]}.")
    path = folder / value
    if not path.is_file():
        raise InputError(f"the image {path} is not a file. Relative paths start at the folder of the JSONL file.")
    return path


def _expected(data: Mapping[str, Any], choices: Sequence[str] | None) -> str | int | tuple[str, ...] | None:
    answer = data.get("answer")
    if isinstance(answer, list):
        return _texts(data, "answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | None):
        raise InputError("'answer' must be a string, an index into 'choices', or a list of strings.")
    if isinstance(answer, int) and (choices is None or not 0 <= answer < len(choices)):
        raise InputError(f"'answer' is {answer}, which is no index into 'choices'.")
    return answer


def require_letters(request: Request) -> None:
    """InputError where a request has more choices than there are letters to answer by."""
    if request.choices and len(request.choices) > len(LETTERS):
        raise InputError(
            f"the request {request.id!r} has {len(request.choices)} choices; answers by letter know {len(LETTERS)}."
        )


def read_json(path: Path) -> Any:
    """A whole JSON file. Raises InputError where it is missing or no JSON."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path} is not a file.") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
    return parse_json(content, path)


def parse_json(content: str | bytes, path: Path) -> Any:
    """The content of the file `path` as JSON. Raises InputError where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole JSON ({error}).") from error


def read_answers(path: Path | str) -> Iterator[Answer]:
    """The answers of a file that `AnswerFile` wrote. Raises InputError with file:line for any other line."""
    path = Path(path)
    for number, line in _lines(path):
        try:
            yield _answer(line)
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{number}: the line is no answer ({error}).") from error


def _answer(line: bytes) -> Answer:
    data = _object(line)
    top = tuple((str(label), float(share)) for label, share in data.get("top", ()))
    answer = Answer(**{**data, "ids": tuple(data["ids"]), "top": top})
    if not isinstance(answer.id, str) or not isinstance(answer.text, str):
        raise InputError("its id or text is no string.")
    return answer


def image_states(requests: Iterable[Request]) -> str:
    """SHA-256, in hex, of path, size and time of change of every image: other images give other answers.

    Their bytes are not read: that would take as long as a good part of the answering.
    """
    paths = {image for request in requests for image in (request.image, request.image_2) if image}
    states = sorted((str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


class AnswerFile:
    """Writes answers, one JSON object a line, so that a run can be killed and run again: a context manager.

    Lines go to `.<name>.partial-<digest>` beside `out`, whole batches at a time, and the file gets its name when the
    block ends well. The digest is over the input files, the bundle and the settings: the same run finds what it had
    and goes on; another one starts anew and removes what is left of it. Attribute: done, ids answered already.
    """

    def __init__(
        self,
        out: Path | str,
        inputs: Sequence[Path],
        bundle: str,
        settings: Mapping[str, Any],
        resume: bool = True,
    ) -> None:
        """inputs are the files the requests come from, bundle its manifest's digest, settings what moves the answers.

        Raises InputError where `out` is a folder or one of the inputs.
        """
        self.out = Path(out).resolve()
        if self.out.is_dir():
            raise InputError(f"{self.out} is a folder; name the file that the answers go to.")
        check_no_file_of_bundle(self.out)
        if any(self.out.exists() and path.exists() and self.out.samefile(path) for path in inputs):
            raise InputError(f"{self.out} is an input of this run: writing the answers there would destroy it.")
        self.partial = self.out.with_name(f".{self.out.name}.partial-{_run_digest(inputs, bundle, settings)}")
        self.done: set[str] = set()
        self._resume = resume
        self._file: BinaryIO | None = None

    def __enter__(self) -> "AnswerFile":
        """Open or resume. A line that was cut is dropped. Raises InputError where another process is writing it,
        EnvironmentLack where the folder cannot be written."""
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.out, keep=self.partial)
            self._file = lock(self.partial)
        except OSError as error:
            raise EnvironmentLack(f"{self.out.parent} cannot be written: {error.strerror}.") from error
        if self._file is None:
            raise InputError(f"another process is writing {self.out}.")
        self._file.truncate(self._read_done() if self._resume else 0)
        self._file.seek(0, os.SEEK_END)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._file is not None
        file = self._file
        if kind is None:
            os.fsync(file.fileno())
            self.partial.replace(self.out)
            file.close()
            return
        # What did not fit on a full disk is still buffered: the message in flight is the one to keep.
        with suppress(OSError):
            file.flush()
        # While it is locked: without the lock it may be another process's by now.
        with suppress(OSError):
            if self.partial.stat().st_size == 0:
                self.partial.unlink()
        with suppress(OSError):
            file.close()

    def pending(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests that have no answer yet. Raises InputError at the end where the file holds an answer to
        something that was not among them: then it was made for other input."""
        foreign = set(self.done)
        for request in requests:
            if request.id not in self.done:
                yield request
            foreign.discard(request.id)
        if foreign:
            raise InputError(
                f"{self.partial} holds an answer to {min(foreign)!r}, which is not in the input: it was made for other "
                "input. Delete it and run again."
            )

    def write(self, answers: Iterable[Answer]) -> None:
        """Append a batch of answers and hand them to the system."""
        assert self._file is not None
        lines = [json.dumps(answer.to_dict(), ensure_ascii=False) + "\n" for answer in answers]
        try:
            self._file.write("".join(lines).encode())
            self._file.flush()
        except OSError as error:
            raise EnvironmentLack(f"{self.out} cannot be written: {error.strerror}. Run again to go on.") from error

    def _read_done(self) -> int:
        """Collect the ids of the whole lines and return where the first damaged one begins."""
        assert self._file is not None
        end = 0
        for line in self._file:
            try:
                answer = _answer(line)
            except (InputError, KeyError, TypeError, ValueError):
                break
            if not line.endswith(b"\n") or answer.id in self.done:
                break
            self.done.add(answer.id)
            end += len(line)
        return end


def _run_digest(inputs: Sequence[Path], bundle: str, settings: Mapping[str, Any]) -> str:
    run = [_LINE_FORMAT, [sha256_file(path) for path in inputs], bundle, dict(settings)]
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
