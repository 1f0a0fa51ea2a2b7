"""What a bundle carries to be checked with: its own images and questions, and golden tensors of hard rows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle, BundleWriter, change
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.golden import Case, from_arrays, to_arrays
from memvp_export.exporter.parity.sample_requests import bundled_requests
from memvp_export.exporter.parity.samples import read_cases, read_samples

from .edits import rewrite


@pytest.mark.parametrize("image", ["../../private.png", "{root}/../private.png", "images/other.png"])
def test_a_sample_image_that_is_no_file_of_the_bundle_is_refused(copy: Path, image: str) -> None:
    """It would be embedded in the report."""
    shutil.copy(copy / "samples/images/0.png", copy.parent / "private.png")
    shutil.copy(copy / "samples/images/0.png", copy / "samples/images/other.png")

    def edit(path: Path) -> None:
        first, *rest = path.read_text().splitlines()
        line = {**json.loads(first), "image": image.format(root=copy)}
        path.write_text("\n".join([json.dumps(line), *rest]))

    rewrite(copy, "samples/requests.jsonl", edit)
    with pytest.raises(InputError, match="which is no file of the bundle"):
        check(copy)


def test_an_image_in_the_bundle_that_leads_outside_is_refused(copy: Path) -> None:
    shutil.copy(copy / "samples/images/0.png", copy.parent / "private.png")
    (copy / "samples/images/0.png").unlink()
    (copy / "samples/images/0.png").symlink_to(copy.parent / "private.png")
    with pytest.raises(InputError, match="leaves the bundle"):
        check(copy)


def test_samples_with_two_images_are_refused(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    picture = str(bundle_of("fp32") / "samples/images/0.png")
    lines = [{"id": "a", "text": "x"}, {"id": "b", "text": "x", "image": picture, "image_2": picture}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match="'b' has two images"):
        bundled_requests(tmp_path / "samples.jsonl", BundleWriter(tmp_path / "bundle"))


def test_golden_rows_cover_padding_on_both_sides_a_hole_and_no_image(bundle_of: Callable[[str], Path]) -> None:
    cases = {(case.component, case.name): case for case in read_cases(Bundle.open(bundle_of("fp32")))}
    mask = cases["decoder", "rows"].inputs["attention_mask"]
    assert mask[0, 0] == 0 and mask[0, -1] == 1
    assert mask[1, 0] == 1 and mask[1, -1] == 0
    assert mask[2, 0] == 1 and (mask[2] == 0).any() and mask[2, -1] == 1
    assert mask[3].all()
    assert list(cases["vision", "rows"].inputs["image_indicator"]) == [1, 1, 0, 1]
    assert not cases["decoder", "rows"].inputs["visual_memory"][2].any()


def test_cases_survive_being_stored() -> None:
    case = Case("decoder", "rows", {"past_key_values.0.key": np.ones(2)}, {"logits": np.zeros(3)})
    (back,) = from_arrays(to_arrays([case]))
    assert (back.component, back.name) == (case.component, case.name)
    assert np.array_equal(back.inputs["past_key_values.0.key"], np.ones(2)) and list(back.outputs) == ["logits"]


def test_a_bundle_without_golden_samples_has_no_cases(copy: Path) -> None:
    with change(copy) as (writer, content):
        writer.write_manifest({**content, "samples": None})
    assert read_cases(Bundle.open(copy)) == [] and read_samples(Bundle.open(copy)) == []
