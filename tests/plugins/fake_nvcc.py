"""A program that answers as nvcc does: it copies sources for objects and a ready library for the linked one."""

from pathlib import Path

_SCRIPT = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release 12.8, V12.8.93"; exit;;
  --list-gpu-arch) printf 'compute_80\\ncompute_90\\ncompute_120\\n'; exit;;
esac
echo "$@" >> "{log}"
{extra}
while [ $# -gt 0 ]; do
  case "$1" in
    -c) source="$2";;
    -o) output="$2";;
  esac
  shift
done
cp "${{source:-{library}}}" "$output"
"""


def put_nvcc(folder: Path, library: Path | str = "/dev/null", extra: str = "") -> Path:
    """Write the program to `folder`/nvcc; the commands it gets go to `folder`/log. `extra` is shell run before."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nvcc"
    program.write_text(_SCRIPT.format(log=folder / "log", library=library, extra=extra))
    program.chmod(0o755)
    return program


def commands(program: Path) -> list[list[str]]:
    """The words of every command that compiled or linked, since the last call."""
    log = program.with_name("log")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split() for line in lines]
