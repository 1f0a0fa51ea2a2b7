"""The pages say what the report says, stand alone in one file, and let nothing in that was not written for them."""

import math
import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Answer, Request
from memvp_export.exporter.errors import EnvironmentLack, InputError, MissingPackage
from memvp_export.exporter.parity import page as page_module
from memvp_export.exporter.parity.check import GOLDEN, GRAPH_ONLY, SOURCE
from memvp_export.exporter.parity.metrics import Agreement, Distance
from memvp_export.exporter.parity.page import require_packages, write_check_page, write_demo_page
from memvp_export.exporter.parity.page_demo import Accuracy, AnsweredQuestion, accuracies, answered_question
from memvp_export.exporter.parity.page_plot import MOST_ROWS, plot_rows, relative_l2_plot
from memvp_export.exporter.parity.page_summary import summarize, why_failed
from memvp_export.exporter.parity.page_words import figure, percent
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.parity.results import AnswerResult, OutputResult
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from memvp_export.exporter.progress import Stage
from PIL import Image

LIMITS = THRESHOLDS["fp32"]
NEAR = Distance(4.1e-6, 2.2e-7, 1.3e-6, 0.9999999, 3.7e-7, True)
FAR = Distance(0.9, 0.1, 0.5, 0.93, 0.31, True)
INFINITE = Distance(math.inf, math.inf, math.inf, -1.0, math.inf, False)
UNDEFINED = Distance(math.nan, math.nan, math.nan, math.nan, math.nan, True)
EVIL = "what is <script>alert('x')</script>\n\"this\" & that?"
VOID = {"meta", "img", "br", "use"}


class Page(HTMLParser):
    """A page taken apart: visible text, tags, attributes, and whether every tag was closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data


def alone(page: Page) -> bool:
    """Whether a page refers to nothing outside it and runs nothing."""
    outside = [link for link in page.links if not link.startswith(("data:image/", "#"))]
    fetched = re.search(r"https?://|@import|url\((?!#)", page.source)
    return not outside and not fetched and not page.tags["script"] and not page.tags["link"] and not page.tags["iframe"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "a-picture.png"
    path.parent.mkdir()
    Image.new("RGB", (300, 200), (200, 30, 40)).save(path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    sources = [{"key": "adapter", "file": "adapter.pth", "size": 263278, "sha256": "ab" * 32}]
    return Bundle(tmp_path / "shapes.bundle", {"digest": "cd" * 32, "sources": sources})


def output(
    found: Distance = NEAR, case: str = "rows: prefill", name: str = "logits", reference: str = GOLDEN
) -> OutputResult:
    agreement = Agreement(0.98, 50, 1.0 if found is NEAR else 0.94, 160, 1e-9) if name == "logits" else None
    return OutputResult(reference, "decoder", case, name, (4, 40, 150), found, agreement, found is NEAR)


def answer(
    index: int, image: Path | None = None, same: bool = True, text: str = "what?", correct: bool | None = None
) -> AnswerResult:
    ids = [5, 6] if same else [5, 7]
    path, margin = str(image) if image else None, None if same else 0.25
    return AnswerResult(GOLDEN, f"q-{index}", text, path, "red", "red", ids, [5, 6], same, margin, same, correct)


def report_of(outputs: list[OutputResult], **values: object) -> Report:
    return Report(
        "/some/where/shapes.bundle", "memvp-llama", "onnxruntime", "fp32", LIMITS, ["decoder"], outputs, **values
    )  # type: ignore[arg-type]


def checked(report: Report, bundle: Bundle, tmp_path: Path) -> Page:
    path = tmp_path / "check.html"
    write_check_page(report, bundle, path)
    page = Page(path)
    assert alone(page)
    return page


def test_a_passing_page_says_what_was_shown(bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    report = report_of(
        [output(), output(name="present.*.key")],
        answers=[answer(0, picture, correct=True), answer(1)],
        image_effect=1.15,
        stages=[vars(Stage("verify digests", 0.21, 51)), vars(Stage("golden samples", 80, 20480))],
        environment={"onnxruntime": "1.2.3"},
    )
    page = checked(report, bundle, tmp_path)
    for text in (
        "✓ Parity shown", report.verdict, GOLDEN, "3.70e-07", "1e-05", "115 thousand times the limit", "2 of 2",
        "verify digests", "0.21 s", "1 min 20 s", "20.0 GiB", "1.2.3", "adapter.pth", "257 KiB", "ab" * 32, "cd" * 32,
        "98.0 %", "4 × 40 × 150", "bundle got 1 right",
    ):  # fmt: skip
        assert text in page.text, text
    assert "failed" not in page.text.replace("a cross failed", "")


def test_images_are_inside_and_their_paths_are_not(bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    report = report_of(
        [output()], answers=[answer(0, picture), answer(1, picture), answer(2, tmp_path / "gone.png"), answer(3)]
    )
    page = checked(report, bundle, tmp_path)
    assert page.tags["img"] == 2 and sum(link.startswith("data:image/") for link in page.links) == 2
    assert "picture cannot be read" in page.text and "no picture" in page.text
    assert "a-picture" not in page.source and "gone.png" not in page.source and str(tmp_path) not in page.source


def test_a_failing_page_names_every_failure_and_every_broken_limit(bundle: Bundle, tmp_path: Path) -> None:
    report = report_of(
        [output(), output(FAR, "rows: chunks"), output(INFINITE, "long")],
        failures=[f"failure number {index} <b>" for index in range(40)],
        notes=["first line\nsecond <i>line</i>"],
        image_effect=1e-6,
    )
    page = checked(report, bundle, tmp_path)
    assert "✗ Parity failed" in page.text and "2 of 3 compared outputs are outside the limits" in page.text
    assert all(f"failure number {index} <b>" in page.text for index in range(40))
    for text in (
        "first line second <i>line</i>", "relative L2 0.310, limit 1e-05", "cosine 0.9300000, limit 0.999999",
        "decisive top-1 94.0 % of 50, limit 100 %", "could not be compared: NaN or infinite values, or another shape",
        "infinite", "could hardly see a fault",
    ):  # fmt: skip
        assert text in page.text, text
    assert not re.search(r"\b(inf|nan)\b", page.text.replace(report.verdict, ""))


def test_undefined_figures_are_the_worst_and_have_words() -> None:
    (row,) = summarize([output(), output(UNDEFINED, "long"), output(FAR)], LIMITS)
    assert row.case == "long" and row.failed == 2 and math.isnan(row.max) and math.isnan(row.cosine)
    assert row.reasons[0] == "relative L2 not a number, limit 1e-05"
    assert why_failed(output(), LIMITS) == []
    assert [figure(value) for value in (math.inf, -math.inf, math.nan, 0.0)] == [
        "infinite",
        "minus infinite",
        "not a number",
        "0 (exact)",
    ]
    assert [percent(share) for share in (0.0, 1e-9, 0.5, 0.99999, 1.0)] == ["0 %", "0.1 %", "50.0 %", "99.9 %", "100 %"]


def test_texts_are_escaped_and_long_ones_folded(bundle: Bundle, tmp_path: Path) -> None:
    long = EVIL + " many words" * 100
    report = report_of(
        [output(name="<img src=x>", case="$x_1$ & <case>")], answers=[answer(0, text=EVIL), answer(1, text=long)]
    )
    page = checked(report, bundle, tmp_path)
    assert "<script" not in page.source and page.tags["img"] == 0
    assert "what is <script>alert('x')</script> \"this\" & that?" in page.text
    assert "$x_1$ & <case>" in page.text
    assert f"all {len(long):,} characters" in page.text and " ".join(long.split()) in page.text


def test_many_answers_are_limited_and_counted_with_the_differing_first(
    bundle: Bundle, picture: Path, tmp_path: Path
) -> None:
    answers = [answer(index, picture, same=index != 399) for index in range(400)]
    page = checked(report_of([output()], answers=answers), bundle, tmp_path)
    assert page.tags["img"] == page_module.MOST_ANSWERS
    assert f"Shown are {page_module.MOST_ANSWERS} of 400" in page.text
    assert page.text.index("q-399") < page.text.index("q-0")
    assert "from token 2 on: id 7 instead of 6; the reference's margin is 0.250, decisive" in page.text


def test_nothing_compared_is_no_parity(bundle: Bundle, tmp_path: Path) -> None:
    page = checked(report_of([]), replace(bundle, manifest={}), tmp_path)
    for text in (
        "✗ No parity shown",
        "No reference was found",
        "No question was answered",
        "does not name its sources",
    ):
        assert text in page.text
    assert "Parity shown" not in page.text and page.tags["svg"] == 0


def test_the_kind_of_parity_is_named(bundle: Bundle, tmp_path: Path) -> None:
    page = checked(report_of([output(reference=GRAPH_ONLY)]), bundle, tmp_path)
    assert "Graph parity only" in page.text and "cannot show that these weights" in page.text
    page = checked(replace(report_of([output()]), precision="bf16"), bundle, tmp_path)
    assert "Parity shown on the float32 twin" in page.text and "bfloat16 itself was not run" in page.text
    page = checked(report_of([output(), output(reference=SOURCE)]), bundle, tmp_path)
    assert "Parity shown" in page.text and "read again" in page.text and "Graph parity only" not in page.text


def test_the_plot_takes_any_figure_and_stays_readable() -> None:
    extremes = [replace(NEAR, relative_l2=value) for value in (0.0, 5e-324, 1e308, math.inf, math.nan)]
    svg = relative_l2_plot([output(found, f"case {i}") for i, found in enumerate(extremes)], 1e-5)
    for text in ("limit 1e-05", "infinite", "not a number", "0 (exact)", "case 4", "var(--plot-1)"):
        assert text in svg
    assert relative_l2_plot([], 1e-5) == ""
    few, many = ([output(case=str(index)) for index in range(count)] for count in (5, MOST_ROWS))
    assert [len(row.results) for row in plot_rows(few)] == [0, 1, 1, 1, 1, 1]
    assert [len(row.results) for row in plot_rows(many)] == [MOST_ROWS]


def questions(count: int, picture: Path | None) -> list[AnsweredQuestion]:
    """Colour and count in turns, half of the colours "blue" and all else "Red"; every tenth answer is wrong."""
    expected = ["Red" if index % 4 else "blue" for index in range(count)]
    answers = [f"{text.lower()} " if index % 10 else "<b>?" for index, text in enumerate(expected)]
    types = [("colour", "count")[index % 2] for index in range(count)]
    return [
        AnsweredQuestion(EVIL, picture, wanted, given, bool(index % 10), kind)
        for index, (wanted, given, kind) in enumerate(zip(expected, answers, types, strict=True))
    ]


def test_the_demo_page(picture: Path, tmp_path: Path) -> None:
    asked = questions(100, picture)
    path = tmp_path / "new" / "demo.html"
    write_demo_page(
        report_of([output()]),
        [Stage("export", 5.0, 400), Stage("answer", 3.0, 300)],
        asked,
        path,
        accuracy=accuracies(asked),
        without_images=0.41,
        introduction="One model.",
    )
    page = Page(path)
    assert alone(page) and "<b>?" in page.text and "a-picture" not in page.source
    shown, more = page_module.MOST_PICTURES, sum(not q.correct for q in asked[page_module.MOST_PICTURES :])
    assert page.tags["img"] == shown + more
    for text in (
        "✓ Parity shown", "90 of 100", "blind guess gets 75.0 %", "8.0 s", "400 MiB",
        "without the pictures, this model gets 41.0 %", "colour", "✗ wrong", "✓ right",
        "right would be", f"first {shown} of 100", f"{more} more wrong answers", "decoder logits",
    ):  # fmt: skip
        assert text in page.text, text


def test_the_demo_page_without_questions_and_with_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "demo.html"
    write_demo_page(
        report_of([], failures=["nothing ran"]),
        [],
        [],
        path,
        accuracy=accuracies([]),
        without_images=0.0,
        introduction="One <model>.",
    )
    page = Page(path)
    for text in ("✗ No parity shown", "nothing ran", "no answers to show", "No stage was measured", "One <model>."):
        assert text in page.text


def test_accuracy_is_beside_the_best_blind_guess() -> None:
    overall, colour, count = accuracies(questions(40, None))
    assert (overall.right, overall.total) == (sum(q.correct for q in questions(40, None)), 40)
    assert colour.name == "colour" and colour.majority == 0.5 and count.majority == 1.0 and overall.majority == 0.75
    assert accuracies([]) == [Accuracy("all questions", 0, 0, 0.0)] and accuracies([])[0].share == 0.0
    assert len(accuracies([replace(q, type=None) for q in questions(8, None)])) == 1


def test_a_question_with_choices_is_judged_by_the_choice_and_shown_in_words() -> None:
    request = Request("1", "which?", None, None, ("sea", "sun"), 1)
    question = answered_question(request, Answer("1", "B", (5,), 1), "words")
    assert question == AnsweredQuestion("which?", None, "sun", "B", True, "words")
    assert not answered_question(request, Answer("1", "A", (4,), 0)).correct


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf"{package} is not installed.*memvp-export\[report\]"):
        require_packages()
    with pytest.raises(MissingPackage, match=package):
        write_check_page(report_of([output()]), bundle, tmp_path / "check.html")
    assert not list(tmp_path.glob("*check.html*"))


def test_a_page_appears_whole_or_not_at_all(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "check.html"
    (tmp_path / ".check.html.partial-1").write_text("left by a run that was killed")
    write_check_page(report_of([output()]), bundle, path)
    before = path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["check.html"]

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(EnvironmentLack, match="No space left"):
        write_check_page(report_of([]), bundle, path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["check.html"]
    with pytest.raises(InputError, match="is a folder"):
        write_check_page(report_of([]), bundle, tmp_path)
    monkeypatch.undo()
    with pytest.raises(EnvironmentLack, match="cannot be written"):
        write_check_page(report_of([]), bundle, path / "below-a-file.html")
