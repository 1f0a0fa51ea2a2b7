"""How building, loading and running an engine fail."""

from __future__ import annotations

EXIT_CODES = {"verdict": 1, "input": 2, "environment": 3}


class EngineError(Exception):
    """A failure with a message for the user. kind: "input", "environment" (the machine lacks something), "verdict"."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
