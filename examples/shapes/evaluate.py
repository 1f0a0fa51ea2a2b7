"""How well the exported model answers held-out questions, and how much of that it owes to the image.

python -m memvp_export.examples.shapes.evaluate [MODEL_FOLDER] [QUESTIONS]      (the MemVP-LLaMA unless named)
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...exporter.bundle import Bundle
from ...exporter.checkpoints.source import read_source
from ...exporter.classifier import Classifier
from ...exporter.data import Request
from ...exporter.export import export_onnx
from ...exporter.pipelines import AnyPipeline
from ...exporter.run import open_pipeline
from .files import MODEL
from .questions import TYPES, Question, question
from .scenes import HEIGHT, WIDTH, draw

SEED = 0
QUESTIONS = 4000
_BATCH = 64


@dataclass(frozen=True)
class Result:
    """Questions, and the answers to them with their image, without any (an empty one where the model needs one), and
    with another question's image."""

    questions: list[Question]
    answers: list[str]
    without_image: list[str]
    swapped: list[str]

    def accuracy(self, answers: Sequence[str], type_: str | None = None) -> float:
        """Share of right answers, of all questions or of one type."""
        pairs = zip(self.questions, answers, strict=True)
        return float(np.mean([q.answer == a for q, a in pairs if type_ in (None, q.type)]))

    def majority(self, type_: str) -> float:
        """Accuracy of always giving the most frequent answer to questions of a type."""
        counts = Counter(q.answer for q in self.questions if q.type == type_)
        return max(counts.values()) / counts.total()

    def changed(self, type_: str | None = None) -> float:
        """Share of answers that change when the image does."""
        rows = zip(self.questions, self.answers, self.swapped, strict=True)
        return float(np.mean([a != b for q, a, b in rows if type_ in (None, q.type)]))


def evaluate(bundle: Bundle, count: int = QUESTIONS) -> Result:
    """Ask a bundle of the model `count` held-out questions, each about a scene of its own, in ONNX Runtime."""
    pipeline = open_pipeline(bundle)
    with tempfile.TemporaryDirectory() as folder:
        asked, requests = [], []
        for index in range(count):
            scene, one = question("held-out", SEED, index)
            path = Path(folder) / f"{index}.png"
            draw(scene).save(path, compress_level=1)
            asked.append(one)
            requests.append(Request(str(index), one.text, path))
        # By one type's turn, so that each question gets an image that answers it as well as its own.
        others = requests[len(TYPES) :] + requests[: len(TYPES)]
        swapped = [replace(r, image=other.image) for r, other in zip(requests, others, strict=True)]
        empty = _no_image(pipeline, Path(folder))
        texts = {r.text: replace(r, image=empty) for r in requests}
        guesses = dict(zip(texts, _answers(pipeline, list(texts.values())), strict=True))
        return Result(
            questions=asked,
            answers=_answers(pipeline, requests),
            without_image=[guesses[r.text] for r in requests],
            swapped=_answers(pipeline, swapped),
        )


def _no_image(pipeline: AnyPipeline, folder: Path) -> Path | None:
    """Nothing, or for a model that always looks at an image a grey one without any shape."""
    if not isinstance(pipeline, Classifier):
        return None
    path = folder / "empty.png"
    Image.new("RGB", (WIDTH, HEIGHT), (127, 127, 127)).save(path)
    return path


def _answers(pipeline: AnyPipeline, requests: Sequence[Request]) -> list[str]:
    return [answer.text for answer in pipeline.answer(requests, replace(pipeline.defaults, batch=_BATCH))]


def main() -> None:
    """Export the model to fp32 in a temporary folder, ask it, and print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    count = int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS
    with tempfile.TemporaryDirectory() as work:
        bundle = export_onnx(read_source(folder), Path(work) / "bundle", "fp32", golden=False)
        result = evaluate(bundle, count)
    print(f"{'type':10} {'questions':>9} {'accuracy':>9} {'majority':>9} {'no image':>9} {'changed by a swap':>18}")
    for type_ in TYPES:
        number = sum(q.type == type_ for q in result.questions)
        accuracy, without = result.accuracy(result.answers, type_), result.accuracy(result.without_image, type_)
        line = f"{type_:10} {number:9} {accuracy:9.2%} {result.majority(type_):9.2%} {without:9.2%}"
        print(f"{line} {result.changed(type_):18.2%}")
    accuracy, without = result.accuracy(result.answers), result.accuracy(result.without_image)
    print(f"{'all':10} {count:9} {accuracy:9.2%} {'':9} {without:9.2%} {result.changed():18.2%}")


if __name__ == "__main__":
    main()
