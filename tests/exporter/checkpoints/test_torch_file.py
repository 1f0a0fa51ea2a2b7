"""Files of torch.save and torch.jit.save: values, laziness, and every way in which a file can be bad."""

import argparse
import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.exporter.checkpoints import unpickler
from memvp_export.exporter.checkpoints.torch_file import flatten_module, read_torch_file
from memvp_export.exporter.checkpoints.unpickler import Inert
from memvp_export.exporter.errors import InputError


def saved(path: Path, obj: Any) -> Path:
    torch.save(obj, path)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_values_of_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    lazy = read_torch_file(saved(tmp_path / "a.pt", {"w": tensor}))["w"]
    assert (lazy.shape, lazy.dtype, lazy.nbytes) == ((3, 4), dtype, tensor.nbytes)
    assert torch.equal(lazy.load(), tensor)


def test_views_keep_their_values(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    views = {
        "transposed": base.t(),
        "slice": base[1:5:2, 2:7],
        "expanded": base[:1].expand(4, 8),
        "scalar": base[2, 3],
        "empty": base[:0],
        "parameter": torch.nn.Parameter(base[3]),
    }
    found = read_torch_file(saved(tmp_path / "a.pt", views))
    for name, view in views.items():
        loaded = found[name].load()
        assert torch.equal(loaded, view), name
        assert loaded.is_contiguous(), name


def test_tied_tensors_are_read_apart(tmp_path: Path) -> None:
    tensor = torch.randn(4)
    found = read_torch_file(saved(tmp_path / "a.pt", {"a": tensor, "b": tensor}))
    first, second = found["a"].load(), found["b"].load()
    first.zero_()
    assert torch.equal(second, tensor)
    assert torch.equal(found["a"].load(), tensor)


def test_other_objects_become_records(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    content = {
        "model": collections.OrderedDict(w=torch.ones(2)),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.009, name="x", path=Path("a/b")),
        "epoch": 19,
        "array": np.arange(3),
        "scalar": np.float64(2.5),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "set": {1, 2},
        "default": collections.defaultdict(list, a=1),
        np.ndarray: "keyed by a class",
    }
    content["model"]._metadata = {"": {"version": 1}}
    found = read_torch_file(saved(tmp_path / "a.pt", content))
    assert found["args"].lr == 0.009 and found["args"].name == "x"
    assert isinstance(found["args"], Inert) and not hasattr(found["args"], "missing")
    assert found["epoch"] == 19 and found["dtype"] is torch.float16 and found["size"] == (2, 3)
    assert isinstance(found["array"], Inert)
    assert list(flatten_module(found["model"])) == ["w"]
    assert "keyed by a class" in found.values()


def test_callbacks_keyed_by_class_of_a_package_that_is_not_installed(tmp_path: Path) -> None:
    # GLOBAL pytorch_lightning ModelCheckpoint as a dict key, with an instance made by NEWOBJ and BUILD as its value.
    data = b"\x80\x02}(cpytorch_lightning.callbacks\nModelCheckpoint\nq\x00h\x00)\x81}U\x04bestK\x07sbU\x05epochK\x09u."
    found = read_torch_file(zip_of(tmp_path / "a.ckpt", data))
    assert found.pop("epoch") == 9
    ((key, value),) = found.items()
    assert key.origin == "pytorch_lightning.callbacks.ModelCheckpoint" and value.best == 7


def zip_of(path: Path, data: bytes, entries: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in (entries or {}).items():
            archive.writestr(f"archive/{name}", content)
    return path


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, 1)
        self.seq = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU())
        self.register_buffer("count", torch.tensor(7))
        self.numbers = [1, 2]
        self.label = "x"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x)[0] + self.seq(x) + self.count + self.numbers[0]


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_module_tree(tmp_path: Path, how: str) -> None:
    module = Outer().eval()
    script = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.ones(3, 4), strict=False)
    script.half()
    torch.jit.save(script, tmp_path / "a.pt")
    found = flatten_module(read_torch_file(tmp_path / "a.pt"), "a.pt")
    state = script.state_dict()
    assert found.keys() == state.keys()
    for name, lazy in found.items():
        assert torch.equal(lazy.load(), state[name]), name
        assert lazy.origin.endswith(f"a.pt: {name}")


def test_flatten_takes_a_state_dict_inside(tmp_path: Path) -> None:
    content = read_torch_file(
        saved(tmp_path / "a.pt", {"state_dict": {"w": torch.ones(1), "n": 3}, "v": torch.ones(1)})
    )
    assert list(flatten_module(content)) == ["w"]
    with pytest.raises(InputError, match="holds a list, expected a module"):
        flatten_module([1])
    with pytest.raises(InputError, match=r"x\.pt holds no tensors"):
        flatten_module({"a": 1}, "x.pt")


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    with torch.serialization.skip_data():
        torch.save({"huge": torch.empty(1 << 32, dtype=torch.float16), "small": torch.empty(3)}, path)
    assert path.stat().st_size > 1 << 33
    before = bytes_read()
    found = read_torch_file(path)
    assert found["huge"].nbytes == 1 << 33
    assert torch.equal(found["small"].load(), torch.zeros(3))
    assert bytes_read() - before < 20_000


def bytes_read() -> int:
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        pytest.skip("this system does not count the bytes that a process reads")


def test_state_cannot_be_set_on_functions_or_tensors(tmp_path: Path) -> None:
    helper = b"\x80\x02ctorch._utils\n_rebuild_parameter\n}U\x0c__defaults__K\x01sb."
    with pytest.raises(InputError, match="damaged"):
        read_torch_file(zip_of(tmp_path / "a.pt", helper))


def test_the_memo_cannot_be_used_to_take_memory(tmp_path: Path) -> None:
    found = read_torch_file(zip_of(tmp_path / "a.pt", b"\x80\x02K\x01r\xff\xff\xff\x7f."))
    assert found == 1


def test_deep_tuples_do_not_end_the_process(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tuples inside tuples"):
        read_torch_file(zip_of(tmp_path / "a.pt", b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."))
    again = b"\x80\x02ctorch\nSize\n](K\x01\x85K\x02e\x85R."
    with pytest.raises(InputError, match="damaged"):
        read_torch_file(zip_of(tmp_path / "b.pt", again))


MARKER = "marker"


class Attack:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Attack(os.system, f"touch {MARKER}"), "posix.system"),
        (Attack(eval, f"open('{MARKER}', 'w')"), "builtins.eval"),
        (Attack(exec, f"open('{MARKER}', 'w')"), "builtins.exec"),
        (Attack(getattr, "x", "upper"), "builtins.getattr"),
        (Attack(__import__, "antigravity"), "builtins.__import__"),
        (Attack(torch.storage._load_from_bytes, b""), "torch.storage._load_from_bytes"),
        (Attack(torch.load, MARKER), "torch.serialization.load"),
        (Attack(torch.hub.load, "a/b", "c"), "torch.hub.load"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    torch.save({"model": {"w": torch.ones(2)}, "args": attack}, path, pickle_protocol=protocol)
    with pytest.raises(InputError) as error:
        read_torch_file(path)
    written = name.replace("builtins", "__builtin__") if protocol == 2 else name
    assert f"{path}: opening it as PyTorch does would call {written}," in str(error.value)
    assert "Nothing of the file was executed" in str(error.value)
    assert not (tmp_path / MARKER).exists()


def test_listed_packages_are_not_imported_or_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"w": torch.ones(1), "a": Attack(np.ndarray.tofile, np.ones(1), MARKER), "p": Attack(Path.touch, MARKER)}
    data = io.BytesIO()
    pickle.dump({"a": Attack(np.save, MARKER, 1), "b": Attack(np.fromfile, "/dev/zero")}, data, 2)
    found = read_torch_file(zip_of(tmp_path / "b.pt", data.getvalue()))
    assert isinstance(found["a"], Inert) and found["a"].args == (MARKER, 1)
    assert not list(tmp_path.glob(f"{MARKER}*"))
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(InputError, match="getattr"):
        read_torch_file(tmp_path / "c.pt")


def good(path: Path) -> bytes:
    return saved(path / "good.pt", {"w": torch.arange(4096.0), "v": torch.ones(16)}).read_bytes()


def legacy(path: Path) -> bytes:
    torch.save({"w": torch.ones(2)}, path / "legacy.pt", _use_new_zipfile_serialization=False)
    return (path / "legacy.pt").read_bytes()


def repacked(path: Path, compression: int = zipfile.ZIP_DEFLATED, **changed: bytes) -> bytes:
    good(path)
    out = io.BytesIO()
    with zipfile.ZipFile(path / "good.pt") as source, zipfile.ZipFile(out, "w", compression) as target:
        for info in source.infolist():
            name = info.filename.partition("/")[2]
            target.writestr(info.filename, changed.get(name.replace("/", "_"), source.read(info)))
    return out.getvalue()


def without(path: Path, left_out: str) -> bytes:
    good(path)
    out = io.BytesIO()
    with zipfile.ZipFile(path / "good.pt") as source, zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith(left_out):
                target.writestr(info.filename, source.read(info))
    return out.getvalue()


def directory_changed(path: Path, at: int, value: int, size: int) -> bytes:
    """The good file with a field of the zip directory's entry for data/0 overwritten."""
    data = bytearray(repacked(path, 0))
    at += data.rindex(b"good/data/0") - 46
    data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


BAD = {
    "empty": (lambda path: b"", "is empty"),
    "garbage": (lambda path: os.urandom(7) + b"\xff" * 5000, "is not a PyTorch file"),
    "text": (lambda path: b"hello" * 100, "is not a PyTorch file"),
    "web page": (lambda path: b"\n<!DOCTYPE html><html>login</html>", "is a web page"),
    "lfs pointer": (lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
    "safetensors": (lambda path: (99).to_bytes(8, "little") + b'{"a":{}}', "looks like a safetensors file"),
    "legacy": (legacy, "format before 1.6.*save it again with a current PyTorch"),
    "foreign zip": (
        lambda path: zip_of(path / "z", b"").read_bytes().replace(b"data.pkl", b"data.xml"),
        "not one of Py",
    ),
    "repacked": (repacked, "compressed or encrypted"),
    "big-endian": (lambda path: repacked(path, 0, byteorder=b"big"), "big-endian"),
    "short entry": (lambda path: repacked(path, 0, data_0=b"\0" * 100), "needs more than the 25 elements"),
    "no entry": (lambda path: without(path, "data/1"), "lacks the entry good/data/1"),
    "encrypted": (lambda path: directory_changed(path, 8, 1, 2), "compressed or encrypted"),
    "entry elsewhere": (lambda path: directory_changed(path, 42, 5000, 4), "data/0 is not inside the file"),
    "entry behind the end": (lambda path: directory_changed(path, 42, 1 << 30, 4), "data/0 is not inside the file"),
    "entry too long": (lambda path: directory_changed(path, 24, 1 << 30, 4), "data/0 is not inside the file"),
    "broken pickle": (lambda path: repacked(path, 0, **{"data.pkl": b"\x80\x02}q\x00X\xff"}), "list of its tensors is"),
    "empty pickle": (lambda path: repacked(path, 0, **{"data.pkl": b""}), "list of its tensors is damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    path = tmp_path / "bad.pt"
    path.write_bytes(make(tmp_path))
    with pytest.raises(InputError, match=message) as error:
        read_torch_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("part", [0.0005, 0.01, 0.1, 0.5, 0.9, 0.97, 0.99, 0.9995])
def test_cut_files(tmp_path: Path, part: float) -> None:
    whole = good(tmp_path)
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match="cut short"):
        read_torch_file(path)


def test_any_changed_byte_is_harmless(tmp_path: Path) -> None:
    whole = good(tmp_path)
    path = tmp_path / "flipped.pt"
    starts = [*range(0, 1200, 7), *range(len(whole) - 1500, len(whole), 7)]
    for at in starts:
        changed = bytearray(whole)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            found = read_torch_file(path)
            for value in found.values():
                value.load()
        except InputError:
            pass


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_torch_file(tmp_path / "none.pt")
    with pytest.raises(InputError, match="is a folder"):
        read_torch_file(tmp_path)


def tensor_pickle(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], length: int) -> bytes:
    """A pickle of one float32 tensor in storage 0, as torch writes it, with any numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", length) if obj == "STORAGE" else None

    out = io.BytesIO()
    args = ("STORAGE", offset, shape, strides, False, collections.OrderedDict())
    Pickler(out, 2).dump({"w": Attack(torch._utils._rebuild_tensor_v2, *args)})
    return out.getvalue()


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "length", "message"),
    [
        (0, (4, 4), (4, 1), 16, None),
        (1, (4, 4), (4, 1), 16, "needs more than the 16 elements of its storage 0"),
        (0, (4, 5), (4, 1), 16, "needs more than"),
        (0, (4, 4), (5, 1), 16, "needs more than"),
        (0, (4, 4), (4, 1), 8, "needs more than the 8"),
        (0, (4, 5), (4, 1), 1 << 40, "needs more than the 16"),
        (1 << 40, (1,), (1,), 16, "needs more than"),
        (-1, (2,), (1,), 16, "impossible sizes"),
        (0, (2,), (-1,), 16, "impossible sizes"),
        (0, (1 << 60,), (0,), 16, "impossible sizes"),
        (0, (1 << 40,), (0,), 16, "larger than the file"),
        (0, (4, 4), (4,), 16, "impossible sizes"),
        (0, (True, 4), (4, 1), 16, "impossible sizes"),
        (0, (2.0, 4), (4, 1), 16, "impossible sizes"),
        (0, (4,), (1,), -16, "unknown storage"),
    ],
)
def test_tensors_must_lie_inside_their_storage(
    tmp_path: Path, offset: int, shape: Any, strides: Any, length: int, message: str | None
) -> None:
    values = np.arange(16, dtype="<f4")
    path = zip_of(tmp_path / "a.pt", tensor_pickle(offset, shape, strides, length), {"data/0": values.tobytes()})
    if message is None:
        assert np.array_equal(read_torch_file(path)["w"].load().numpy(), values.reshape(4, 4))
        return
    with pytest.raises(InputError, match=message):
        read_torch_file(path)


def test_modules_that_contain_each_other(tmp_path: Path) -> None:
    loop = b"\x80\x02c__torch__.M\nM\n)\x81q\x00}U\x01mh\x00sb."
    with pytest.raises(InputError, match="without end"):
        flatten_module(read_torch_file(zip_of(tmp_path / "a.pt", loop)))


def test_a_file_that_shrinks_after_opening(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"w": torch.ones(5000)})
    lazy = read_torch_file(path)["w"]
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="became shorter"):
        lazy.load()


def test_inert_records_take_any_state() -> None:
    record = unpickler.Inert(1, a=2)
    for state in (None, 3, "x", (None, {"slot": 1}), ({"b": 1}, None), {4: 5, "c": 6}):
        record.absorb(state)
    record.append(1)
    record.extend([1])
    record["x"] = 1
    assert record.state == {"a": 2, "slot": 1, "b": 1, "c": 6} and record.args == (1,)
