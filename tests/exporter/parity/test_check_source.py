"""The reference run anew on a source that must be the bundle's own."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.examples.random_source import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.anew import reference_of
from memvp_export.exporter.parity.check import GOLDEN, SOURCE, check

from .edits import rewrite


def test_the_source_is_run_anew(bundle_of: Callable[[str], Path], odd_source: Path) -> None:
    report = check(bundle_of("fp32"), source=read_source(odd_source))
    assert report.passed and report.kinds == [GOLDEN, SOURCE]
    cases = {result.case for result in report.outputs if result.reference == SOURCE}
    assert {"rows: prefill", "long", "random, batch 8, 5 columns"} <= cases


def test_a_source_of_another_shape_or_with_other_options_is_refused(
    bundle_of: Callable[[str], Path], odd_source: Path
) -> None:
    source = read_source(odd_source)
    other = dataclasses.replace(source, options={**source.options, "adapter_scale": 0.2})
    with pytest.raises(InputError, match="was not made from this source"):
        check(bundle_of("fp32"), source=other)


def test_a_source_with_other_weights_fails(bundle_of: Callable[[str], Path], odd_source: Path, tmp_path: Path) -> None:
    other = read_source(write_source(tmp_path, PRESETS["odd"], seed=1))
    shutil.copy(read_source(odd_source).files["tokenizer"], other.files["tokenizer"])
    report = check(bundle_of("fp32"), source=other)
    assert not report.passed and {r.reference for r in report.outputs if not r.passed} == {SOURCE}
    (note,) = (note for note in report.notes if "byte for byte" in note)
    assert "ViT.pt" in note and "consolidated.00.pth" in note and "tokenizer.model" not in note


@pytest.mark.parametrize(
    ("part", "edit"),
    [
        ("preprocessing", {"std": [0.5, 0.5, 0.5]}),
        ("tokenizer", {"prefix": "Hello. "}),
        ("config", {"adapter_scale": 0.2}),
        ("generation", {"no_repeat_ngram_size": 2}),
    ],
)
def test_a_bundle_that_sees_or_reads_otherwise_than_the_source_is_refused(
    copy: Path, odd_source: Path, part: str, edit: dict[str, Any]
) -> None:
    with change(copy) as (writer, content):
        content[part] |= edit
        writer.write_manifest(content)
    with pytest.raises(InputError, match=f"was not made from this source: they differ in {part}"):
        reference_of(Bundle.open(copy), read_source(odd_source))


def test_a_bundle_with_another_tokenizer_is_refused(copy: Path, odd_source: Path) -> None:
    name = Bundle.open(copy).manifest["tokenizer"]["file"]
    rewrite(copy, name, lambda path: path.write_bytes(path.read_bytes() + b"\0"))
    with pytest.raises(InputError, match="they differ in the tokenizer's file"):
        reference_of(Bundle.open(copy), read_source(odd_source))
