"""A child that dies, hangs or says nothing that can be read is an answer, and never an end of the tool."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.child_process import ChildFailed, ask_module, module_objects, run_code, run_program


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a module of this code, that children find, and return its name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(code: str) -> str:
        (tmp_path / "answering.py").write_text(code)
        return "answering"

    return write


def test_the_last_line_is_the_answer() -> None:
    assert run_code("import sys; print('noise'); print(sys.argv[1])", "fine") == "fine"
    assert run_program([sys.executable, "-c", "import sys; print(sys.stdin.read())"], b"given") == "given"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", r"crashed \(SIGABRT\)"),
        ("import time; time.sleep(60)", "did not answer within 0.5 s"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("assert False, 'wrong numbers'", "^wrong numbers$"),
        ("raise SystemExit(7)", "ended with code 7"),
    ],
)
def test_what_fails_says_how(module: Callable[[str], str], code: str, message: str) -> None:
    timeout = 0.5 if "sleep" in code else 20
    with pytest.raises(ChildFailed, match=message):
        run_code(code, timeout=timeout)
    with pytest.raises(ChildFailed, match=message.replace("^wrong", "wrong")):
        ask_module(module(code), timeout=timeout)


def test_a_program_that_is_not_there_fails() -> None:
    with pytest.raises(ChildFailed, match="cannot be started"):
        run_program(["/no/such/program"])


def test_a_module_answers_with_its_last_object(module: Callable[[str], str]) -> None:
    name = module("import sys; print('{\"percent\": 5}'); print('{\"given\": \"' + sys.argv[1] + '\"}'); print('bye')")
    assert ask_module(name, "this") == {"given": "this"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('print(\'{"error": "no builder", "kind": "environment"}\'); raise SystemExit(3)', "^no builder$"),
        ("print('done')", "no answer that can be read: 'done'"),
        ("print('{\"record\": cut')", "no answer that can be read"),
        ("", "no answer that can be read: ''"),
        ("print('{\"record\": 1}'); raise SystemExit(5)", "ended with code 5"),
    ],
)
def test_an_error_or_garbage_is_no_answer(module: Callable[[str], str], code: str, message: str) -> None:
    with pytest.raises(ChildFailed, match=message):
        ask_module(module(code))


def test_a_file_of_the_current_folder_stands_in_for_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert run_code("import json; print(json.dumps(1))") == "1"


def test_objects_come_while_the_program_runs_and_it_ends_when_nobody_wants_more(module: Callable[[str], str]) -> None:
    name = module("import os, time\nprint('{\"pid\": %d}' % os.getpid(), flush=True)\ntime.sleep(60)")
    objects = module_objects(name)
    pid = next(objects)["pid"]
    os.kill(pid, 0)
    objects.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_libraries_print_hides_no_object(module: Callable[[str], str]) -> None:
    lines = [
        "import os, sys",
        'os.write(2, b\'{"error": "that is a log"}\\n\')',
        "print('{not one} warning')",
        "sys.stdout.write('an unended warning ')",
        'print(\'{"record": "a.json"}\')',
        "os.write(1, b'\\xff bye')",
    ]
    name = module("\n".join(lines))
    assert list(module_objects(name)) == [{"record": "a.json"}] and ask_module(name) == {"record": "a.json"}


def test_a_crash_has_its_signal_and_last_words(module: Callable[[str], str]) -> None:
    name = module("import os, sys; print('{\"percent\": 3}', flush=True); os.write(2, b'no memory left'); os.abort()")
    objects = module_objects(name)
    assert next(objects) == {"percent": 3}
    with pytest.raises(ChildFailed) as failure:
        next(objects)
    assert failure.value.signal == "SIGABRT" and failure.value.said.startswith("no memory left")
