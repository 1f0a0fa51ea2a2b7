"""Writes questions.jsonl and images/: held-out questions for the exported model to answer.

python -m memvp_export.examples.shapes.write_questions
"""

import json
import sys
from pathlib import Path

from .questions import question
from .scenes import draw

QUESTIONS = 64
SEED = 1  # other held-out questions than evaluate.py's


def write_questions(folder: Path) -> None:
    """One JSON object a line (id, text, image, answer), and a PNG of WIDTH x HEIGHT pixels for each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(QUESTIONS):
        scene, asked = question("held-out", SEED, index)
        name = f"{asked.type}-{index:02}"
        draw(scene).save(folder / "images" / f"{name}.png", optimize=True)
        row = {"id": name, "text": asked.text, "image": f"images/{name}.png", "answer": asked.answer}
        lines.append(json.dumps(row) + "\n")
    (folder / "questions.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    write_questions(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
