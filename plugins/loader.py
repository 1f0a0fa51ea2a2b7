"""The plugin library as a file: where it is, and what it says of itself, without TensorRT."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..exporter.bundle import sha256_file
from ..exporter.child_process import ChildFailed, run_code
from ..exporter.engines.shared_library import library_fault
from ..exporter.errors import InputError

VARIABLE = "MEMVP_PLUGIN"
_TEGRA = {"87"}
_FUNCTION = "memvp_plugin_info"
# Libraries print as they like; what they say of themselves has a line of its own.
_ASK = f"""
import ctypes, sys
function = ctypes.CDLL(sys.argv[1]).{_FUNCTION}
function.restype = ctypes.c_char_p
sys.stdout.buffer.write(b"\\n" + (function() or b"nothing"))
"""
_SECONDS = 30.0
_REMEDY = f"Build one here with `memvp-export plugin build`, or name another one with {VARIABLE}."


@dataclass(frozen=True)
class PluginInfo:
    """What a plugin library is.

    operators: ONNX names. types: of the tensors, as NumPy calls them. archs: compute capabilities with machine code;
    ptx: those whose PTX any later GPU can compile. build_id: a digest of the sources; an engine runs only with the
    build it was built with. schema: of what an engine keeps. headers_version: the TensorRT it was built for; it serves
    the later ones with the same plugin interface (10 and 11; 8).
    """

    path: Path
    sha256: str
    operators: tuple[str, ...]
    version: str
    schema: int
    types: tuple[str, ...]
    archs: tuple[str, ...]
    ptx: tuple[str, ...]
    build_id: str
    headers_version: str
    cuda_version: str

    def runs_on(self, capability: str) -> bool:
        """Whether a GPU of this compute capability, such as 89, finds code in the library.

        Machine code also runs on later minor versions of its major one, embedded GPUs apart; PTX on all later ones.
        """
        if capability in self.archs or any(int(ptx) <= int(capability) for ptx in self.ptx):
            return True
        same = [arch for arch in self.archs if arch[:-1] == capability[:-1] and arch not in _TEGRA]
        return capability not in _TEGRA and any(int(arch) <= int(capability) for arch in same)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"path": str(self.path)}


def cache_folder() -> Path:
    """Where built libraries and their parts are kept between commands."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memvp-export"


def built_library() -> Path:
    """Where `memvp-export plugin build` puts the library when it is given no other place."""
    return cache_folder() / "plugins" / "libmemvp_plugins.so"


def find_library(given: Path | None = None) -> Path | None:
    """The library that is `given`, that MEMVP_PLUGIN names, or that was built last; None where there is none.

    Raises InputError where a file that was named is not there.
    """
    named = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named:
        if not named.is_file():
            raise InputError(f"there is no plugin library {named}{'' if given else f' ({VARIABLE})'}.")
        return named
    return built_library() if built_library().is_file() else None


def library_info(path: Path) -> PluginInfo:
    """What the library at `path` says of itself. It is loaded for that, which runs its code: give only trusted files.

    Raises InputError where it cannot be loaded here, or is no library of `memvp-export plugin build`.
    """
    path = path.resolve()
    if not path.is_file():
        raise InputError(f"there is no plugin library {path}: `memvp-export plugin build` makes one.")
    if fault := library_fault(path):
        raise InputError(f"{path} {fault}. {_REMEDY}")
    # A process of its own: a library that crashes takes nothing with it, and one that was built again is read again.
    try:
        said = json.loads(run_code(_ASK, str(path), timeout=_SECONDS))
    except ChildFailed as failed:
        why = str(failed).removeprefix("OSError: ")
        if _FUNCTION not in why:
            raise InputError(f"{path} cannot be loaded on this machine: {why}. {_REMEDY}") from None
        said = None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise InputError(f"{path} is not a library that `memvp-export plugin build` made. {_REMEDY}")
    unlike = ({field.name for field in fields(PluginInfo)} - {"path", "sha256"}) ^ set(said)
    if unlike:
        named = ", ".join(sorted(unlike))
        raise InputError(f"{path} was made by another version of this tool: it differs in {named}. {_REMEDY}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return PluginInfo(path=path, sha256=sha256_file(path), **values)
