"""Programs in processes of their own: what may crash or hang ends there, and its end is an answer."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_SHOWN = 120
# Of what a program said before it died.
_LAST_LINES = 20


class ChildFailed(Exception):
    """A child process gave no answer, or its answer is an error; the message says which, in words for the user.

    Attributes: signal, the name of the one that ended it, or None; said, the last lines of its standard error where
    the message does not hold them.
    """

    def __init__(self, message: str, signal: str | None = None, said: str = "") -> None:
        super().__init__(message)
        self.signal, self.said = signal, said


def run_program(command: Sequence[str], stdin: bytes = b"", timeout: float = 60.0) -> str:
    """The last line that a program prints; timeout in seconds.

    Raises ChildFailed where it cannot be started, crashes or hangs, and with its last words where it fails.
    """
    done = _finish(command, stdin, timeout)
    if done.returncode:
        last = _last_line(done.stderr).removeprefix("AssertionError: ")
        raise ChildFailed(last or f"ended with code {done.returncode}")
    return _last_line(done.stdout)


def run_code(code: str, *arguments: str, stdin: bytes = b"", timeout: float = 60.0) -> str:
    """The same for Python code in a child of this interpreter."""
    return run_program([*_python(), "-c", code, *arguments], stdin, timeout)


def ask_module(module: str, *arguments: str, timeout: float = 60.0) -> dict[str, Any]:
    """The last of `module_objects`. Raises ChildFailed as that does, and with the "error" that the object holds."""
    answers = list(module_objects(module, *arguments, timeout=timeout))
    answer = answers[-1] if answers else {}
    if "error" in answer:
        raise ChildFailed(str(answer["error"]))
    return answer


def module_objects(module: str, *arguments: str, timeout: float | None = None) -> Iterator[dict[str, Any]]:
    """The JSON objects, one a line, that `python -m module` prints on standard output, while it runs; the program ends
    when the caller has enough. Other lines are passed over: native libraries print as they like.

    Raises ChildFailed as run_program does, after the last object, and where there is none. A program that ends with a
    code of its own has said why where its last object is {"error": ...}.
    """
    found: dict[str, Any] = {}
    last = ""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen([*_python(), "-m", module, *arguments], stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise ChildFailed(f"cannot be started: {error.strerror}") from error
        late = threading.Event()
        with process, _killing(process, timeout, late):
            assert process.stdout is not None
            for line in process.stdout:
                last = line.decode(errors="replace").strip() or last
                if read := _object(last):
                    found = read
                    yield found
        if late.is_set():
            raise ChildFailed(f"did not answer within {timeout:g} s")
        errors.seek(0)
        said = errors.read()
    _require_no_crash(process.returncode, said)
    if process.returncode and "error" not in found:
        raise ChildFailed(_last_line(said) or f"ended with code {process.returncode}")
    if not found:
        raise ChildFailed(f"gave no answer that can be read: {last[:_SHOWN]!r}")


@contextmanager
def _killing(process: subprocess.Popen[bytes], timeout: float | None, late: threading.Event) -> Iterator[None]:
    """Let a process come to its end, but no later than `timeout` seconds and no later than an exception here, such as
    that of a caller who has enough."""

    def kill() -> None:
        late.set()
        process.kill()

    watch = threading.Timer(timeout or 0, kill)
    if timeout is not None:
        watch.start()
    try:
        yield
        process.wait()
    except BaseException:
        process.kill()
        raise
    finally:
        watch.cancel()


def _object(line: str) -> dict[str, Any]:
    """The JSON object at the end of a line, behind a warning that was not ended; empty where there is none."""
    try:
        return dict(json.loads(line[line.index("{") :]))
    except (ValueError, RecursionError):
        return {}


def _python() -> list[str]:
    # -P: a file of the current folder must not stand in for a package.
    return [sys.executable, "-P"]


def _finish(command: Sequence[str], stdin: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"did not answer within {timeout:g} s") from error
    except OSError as error:
        raise ChildFailed(f"cannot be started: {error.strerror}") from error
    _require_no_crash(done.returncode, done.stderr)
    return done


def _require_no_crash(code: int, errors: bytes) -> None:
    if code < 0:
        name = signal.Signals(-code).name
        last = errors.decode(errors="replace").splitlines()[-_LAST_LINES:]
        raise ChildFailed(f"crashed ({name})", name, "\n".join(last).strip())


def _last_line(output: bytes) -> str:
    lines = (line.strip() for line in reversed(output.decode(errors="replace").split("\n")))
    return next((line for line in lines if line), "")
