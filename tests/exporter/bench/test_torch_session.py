"""The PyTorch lane: the graphs' own answers, and tensors that never leave the device it computes on."""

import ml_dtypes
import numpy as np
import pytest
import torch
from memvp_export.exporter.bench import torch_session
from memvp_export.exporter.bench.inputs import golden_arrays, inputs_of
from memvp_export.exporter.bench.loads import Load
from memvp_export.exporter.bench.torch_session import TorchSession
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.kv_cache import KVCache
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.samples import read_cases


def test_it_gives_the_answers_of_the_graphs(bundle: Bundle) -> None:
    session, graphs = TorchSession(bundle, "fp32", "cpu"), OnnxSession(bundle)
    for case in read_cases(bundle):
        expected, found = graphs.run(case.component, case.inputs), session.run(case.component, case.inputs)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-4, rtol=1e-3)
    assert list(session.run(case.component, case.inputs, ["logits"])) == ["logits"]


def test_half_is_computed_in_float32_on_a_cpu(bundle: Bundle) -> None:
    session = TorchSession(bundle, "bf16", "cpu")
    assert session.precision == "fp32"
    inputs = read_cases(bundle)[0].inputs
    wide = session.run("vision", inputs)["visual_memory"]
    assert wide.dtype == np.float32
    # Its inputs may be bfloat16 all the same.
    case = next(case for case in read_cases(bundle) if case.component == "decoder")
    half = {n: a.astype(ml_dtypes.bfloat16) if a.dtype == np.float32 else a for n, a in case.inputs.items()}
    assert np.isfinite(session.run("decoder", half, ["logits"])["logits"]).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_off_the_cpu_it_computes_in_the_precision_and_mixes_nothing(
    bundle: Bundle, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(torch_session, "_array", lambda tensor: seen.append((tensor.device.type, tensor.dtype)))
    # The device "meta" has types without values, and its operators refuse to mix types, or add what is on a CPU.
    session = TorchSession(bundle, precision, "meta")
    for case in read_cases(bundle)[:2]:
        session.run(case.component, case.inputs)
    half = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    # The visual memory, logits, and the keys and values of three layers.
    assert seen == [("meta", half), ("meta", torch.float32), *[("meta", half)] * 6]


def test_wrong_names_are_refused(bundle: Bundle) -> None:
    session = TorchSession(bundle, "fp32", "cpu")
    with pytest.raises(InputError, match="no component 'ear'"):
        session.run("ear", {})
    with pytest.raises(InputError, match="vision needs the inputs pixel_values"):
        session.run("vision", {"image_indicator": np.ones(1, np.float32)})


def test_weights_that_do_not_fit_on_the_gpu_are_refused_by_what_is_free_there(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40))
    # Of the machine's own memory there may be little.
    monkeypatch.setattr(torch_session, "available_memory", lambda: 0)
    free = 1 << 40
    whole, half = (TorchSession(bundle, precision, "cuda") for precision in ("fp32", "fp16"))
    needed = [sum(map(session._bytes, session._components.values())) for session in (whole, half)]
    assert 0.5 <= needed[1] / needed[0] < 0.55
    free = needed[1]
    TorchSession(bundle, "fp16", "cuda")
    with pytest.raises(EnvironmentLack, match=r"of weights, and .* of memory of NVIDIA H200 are available"):
        TorchSession(bundle, "fp32", "cuda")


def test_a_gpu_that_is_full_is_a_lack_and_no_bug(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session = TorchSession(bundle, "fp32", "cpu")

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(session, "_forward", full)
    with pytest.raises(EnvironmentLack, match=r"too little memory on the GPU to run vision: .*--batch"):
        session.run("vision", read_cases(bundle)[0].inputs)


def test_a_closed_session_holds_no_weights(bundle: Bundle) -> None:
    session = TorchSession(bundle, "fp32", "cpu")
    session.run("vision", read_cases(bundle)[0].inputs)
    assert session._weights
    session.close()
    assert not session._weights


def test_a_cache_of_tensors_holds_what_one_of_arrays_holds(bundle: Bundle) -> None:
    session, decoder = TorchSession(bundle, "fp32", "cpu"), bundle.manifest["components"]["decoder"]
    load, known = Load("decode", "decoder", "latency", 2, 1, 6), golden_arrays(bundle)
    there, here = session.cache("decoder", 2), KVCache(decoder, "fp32", 2)
    logits: dict[int, list[np.ndarray]] = {}
    for columns in (4, 2, 1):
        for number, cache in enumerate((there, here)):
            cache.reorder(np.array([1, 0]))
            feed = inputs_of(decoder, load, cache.length, columns, "fp32", known)
            # Rows of their own, so that their order matters.
            feed["input_ids"] = feed["input_ids"] + np.array([[0], [1]])
            outputs = session.run("decoder", feed | cache.inputs())
            logits.setdefault(number, []).append(outputs["logits"])
            assert isinstance(outputs["present.0.key"], torch.Tensor) == (cache is there)
            cache.update(outputs, columns)
    for found, expected in zip(logits[0], logits[1], strict=True):
        np.testing.assert_array_equal(found, expected)
    for name, tensor in there.inputs().items():
        np.testing.assert_array_equal(tensor.numpy(), here.inputs()[name])


def test_inputs_that_are_kept_are_given_as_tensors(bundle: Bundle) -> None:
    session = TorchSession(bundle, "fp32", "cpu")
    inputs = next(case for case in read_cases(bundle) if case.component == "decoder").inputs
    seen = session.keep("decoder", {"visual_memory": inputs["visual_memory"].astype(ml_dtypes.bfloat16)})
    assert seen["visual_memory"].dtype is torch.float32
    found, other = (session.run("decoder", inputs | more, ["logits"])["logits"] for more in (seen, {}))
    np.testing.assert_allclose(found, other, atol=0.05)
    turned = session.keep("decoder", {"visual_memory": -inputs["visual_memory"]})
    assert np.abs(session.run("decoder", inputs | turned)["logits"] - other).max() > 0.01
