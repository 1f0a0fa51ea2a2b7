"""The C++ runtime, compiled once: what was compiled before is kept between runs in the user's cache."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "runtime"
STRICT = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC"]


class Compiler:
    """The system's C++ compiler, with a cache of objects by the digest of all that goes into them."""

    def __init__(self, folder: Path) -> None:
        from memvp_export.plugins.loader import cache_folder

        self.program = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        self.folder, self._kept = folder, cache_folder() / "runtime-tests"

    def objects(self, sources: Sequence[Path], options: Sequence[str] = ()) -> list[Path]:
        """The compiled sources; skips where there is no compiler."""
        if not self.program:
            pytest.skip("no C++ compiler: neither CXX nor g++ nor clang++")
        version = subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout
        headers = [*RUNTIME.rglob("*.h"), *HERE.glob("*.h")]
        told = [version, *STRICT, *options, *(digest(path) for path in sorted(headers))]
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda source: self._object(source, options, told), sources))

    def link(self, output: Path, objects: Sequence[Path], options: Sequence[str] = ()) -> Path:
        subprocess.run([str(self.program), *map(str, objects), "-o", output, *options], check=True)
        return output

    def _object(self, source: Path, options: Sequence[str], told: Sequence[str]) -> Path:
        key = hashlib.sha256(json.dumps([*told, digest(source)]).encode()).hexdigest()[:32]
        kept = self._kept / f"{source.stem}-{key}.o"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            made = self.folder / f"{source.stem}-{key}.o"
            include = ["-I", RUNTIME / "include", "-I", RUNTIME / "src/host", "-I", HERE]
            words = [self.program, *STRICT, *include, *options, "-c", source, "-o", made]
            done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            # Whole or not at all: other test processes look for it too.
            whole = kept.with_name(f".{kept.name}.{os.getpid()}")
            shutil.copyfile(made, whole)
            whole.replace(kept)
        return kept


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Refused(Exception):
    """What the runtime threw: `kind`, its class, and its message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Probe:
    """A program that answers one JSON object a line with another."""

    def __init__(self, words: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, do: str, **asked: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **asked}, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the probe ended with {self._process.wait()} when it was asked to {do}"
        said = json.loads(line)
        if "error" in said:
            raise Refused(said["kind"], said["error"])
        return said["result"]

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(20) == 0


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="session")
def host_objects(compiler: Compiler) -> list[Path]:
    """The host part of the library, which needs neither CUDA nor TensorRT."""
    return compiler.objects(sorted((RUNTIME / "src/host").glob("*.cpp")))


@pytest.fixture(scope="session")
def host(compiler: Compiler, host_objects: list[Path]) -> Iterator[Callable[..., Any]]:
    """The host part, called through host_probe.cpp: host("open", root=..., verify=False). Raises Refused."""
    objects = [*host_objects, *compiler.objects([HERE / "host_probe.cpp"])]
    probe = Probe([compiler.link(compiler.folder / "host_probe", objects)])
    yield probe
    probe.close()
