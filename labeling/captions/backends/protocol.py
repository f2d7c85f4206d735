"""What a backend is, and how it says that there is no answer."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from labeling.captions.dialogue import Reply, Request
from schemas.records import FailureCode

Ask = Callable[[Request], Awaitable[Reply]]
"""Answers one request. Raises Unanswered where this request has no answer, CaptionError where none ever will."""


class CaptionError(Exception):
    """Captioning that cannot go on; the message says why and what to do."""


class Unanswered(Exception):
    """One request without an answer, after all tries. `code` is that of its row in failures/."""

    def __init__(self, code: FailureCode, message: str):
        super().__init__(message)
        self.code = code


class Backend(Protocol):
    """A model that answers. A frozen dataclass: its fields are its configuration."""

    model: str  # as stored with its captions
    concurrency: int  # requests worth having under way at once

    def open(self, schema: dict[str, Any]) -> AbstractAsyncContextManager[Ask]:
        """Load or connect. `schema` is the JSON schema of an answer with the longest length of each text. Raises CaptionError."""
        ...
