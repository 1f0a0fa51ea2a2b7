"""The C++ runtime, compiled once: what was compiled before is kept between runs in the user's cache."""

import fcntl
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

    def part(self, name: str, options: Sequence[str] = ()) -> Path:
        """A part of the library, "host" or "engine", compiled in one piece: most of the time goes into the standard
        library's headers."""
        sources = sorted((RUNTIME / "src" / name).glob("*.cpp"))
        whole = self.folder / f"{name}_part.cpp"
        whole.write_text("".join(f'#include "{source}"\n' for source in sources))
        told = [digest(source) for source in sources]
        return self.objects([whole], options, told)[0]

    def objects(self, sources: Sequence[Path], options: Sequence[str] = (), beside: Sequence[str] = ()) -> list[Path]:
        """The compiled sources; skips where there is no compiler. beside: digests of what they include."""
        if not self.program:
            pytest.skip("no C++ compiler: neither CXX nor g++ nor clang++")
        version = subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout
        headers = [*RUNTIME.rglob("*.h"), *HERE.rglob("*.h")]
        told = [version, *STRICT, *options, *beside, *(digest(path) for path in sorted(headers))]
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda source: self._object(source, options, told), sources))

    def link(self, output: Path, objects: Sequence[Path], options: Sequence[str] = ()) -> Path:
        subprocess.run([str(self.program), *map(str, objects), "-o", output, *options], check=True)
        return output

    def _object(self, source: Path, options: Sequence[str], told: Sequence[str]) -> Path:
        key = hashlib.sha256(json.dumps([*told, digest(source)]).encode()).hexdigest()[:32]
        kept = self._kept / f"{source.stem}-{key}.o"
        self._kept.mkdir(parents=True, exist_ok=True)
        # Test processes side by side need the same objects.
        with self._kept.joinpath(f".{source.stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._compile(source, options, kept)
        return kept

    def _compile(self, source: Path, options: Sequence[str], kept: Path) -> None:
        if not kept.is_file():
            made = self.folder / kept.name
            include = ["-I", RUNTIME / "include", "-I", RUNTIME / "src/host", "-I", HERE]
            words = [self.program, *STRICT, *include, *options, "-c", source, "-o", made]
            done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            # Whole or not at all.
            whole = kept.with_name(f".{kept.name}.{os.getpid()}")
            shutil.copyfile(made, whole)
            whole.replace(kept)


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
def host_part(compiler: Compiler) -> Path:
    """The host part of the library, which needs neither CUDA nor TensorRT."""
    return compiler.part("host")


@pytest.fixture(scope="session")
def host(compiler: Compiler, host_part: Path) -> Iterator[Callable[..., Any]]:
    """The host part, called through host_probe.cpp: host("open", root=..., verify=False). Raises Refused."""
    objects = [host_part, *compiler.objects([HERE / "host_probe.cpp"])]
    probe = Probe([compiler.link(compiler.folder / "host_probe", objects)])
    yield probe
    probe.close()


@pytest.fixture(scope="session")
def engine_program(compiler: Compiler, host_part: Path) -> Path:
    """The whole library over the fake TensorRT and CUDA of `fakes`, with engine_probe.cpp."""
    faked = ["-I", str(HERE / "fakes")]
    objects = compiler.objects([*sorted((HERE / "fakes").glob("*.cpp")), HERE / "engine_probe.cpp"], faked)
    objects += [host_part, compiler.part("engine", faked)]
    return compiler.link(compiler.folder / "engine_probe", objects, ["-pthread", "-ldl"])


@pytest.fixture
def engines(engine_program: Path) -> Iterator[Callable[..., Any]]:
    """The library over fake engines, in a process of the test's own; see engine_probe.cpp for what it can be asked.
    Raises Refused. Everything was given back when it ends, or the test fails."""
    probe = Probe([engine_program])
    yield probe
    probe("close")
    buffers, _, streams, _ = probe("held")
    probe.close()
    assert (buffers, streams) == (0, 0)
