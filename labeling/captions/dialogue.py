"""What to ask about a clip next, given all answers so far, and when to stop.

`advance` is a pure function, so that a killed job goes on from the answers it has kept, with no request paid twice:

- an answer that is not what was asked for is put back once, with what is wrong with it; then the clip fails;
- a degenerate one is asked for once more, at another temperature; then the caption is null and says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from labeling.captions.answer import AnswerError, Caption, parse_answer
from labeling.captions.degenerate import degeneration, is_refusal
from schemas.records import NullReason

_PUT_BACK = 2000  # characters of a wrong answer that are shown again


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `parts` are texts and pictures (JPEG) in the order in which they are shown."""

    role: str  # system, user or assistant
    parts: tuple[str | bytes, ...]


@dataclass(frozen=True)
class Request:
    """What a backend is asked for: the answer to some messages."""

    messages: tuple[Message, ...]
    temperature: float


@dataclass(frozen=True)
class Reply:
    """An answer as it came. Token counts are None where the server does not say."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    was_cut: bool = False  # it ended at the limit of tokens
    was_refused: bool = False  # the server says that the model, or a filter, would not answer


class Wording(Protocol):
    """The language of a question, and how a wrong answer is put back."""

    language: str

    def repair(self, problem: str) -> str: ...


@dataclass(frozen=True)
class Question:
    """All that is asked about one clip. `temperatures` are those of the first try and of the one after a degenerate answer."""

    messages: tuple[Message, ...] = field(repr=False)
    wording: Wording
    temperatures: tuple[float, float]


@dataclass(frozen=True)
class Answered:
    """The end of a dialogue: a caption, or none and why."""

    caption: Caption | None
    reason: NullReason | None = None


@dataclass(frozen=True)
class Unanswerable:
    """The end of a dialogue in which no answer was what was asked for."""

    problem: str


def advance(question: Question, replies: Sequence[Reply]) -> Request | Answered | Unanswerable:
    """The next request, or how the dialogue ended."""
    request = Request(question.messages, question.temperatures[0])
    degenerate: NullReason | None = None
    put_back = False
    for reply in replies:
        try:
            caption = _read(reply)
        except AnswerError as error:
            if put_back:
                return Answered(None, degenerate) if degenerate else Unanswerable(str(error))
            put_back = True
            wrong = Message("assistant", (reply.text[:_PUT_BACK],))
            request = Request((*request.messages, wrong, Message("user", (question.wording.repair(str(error)),))), request.temperature)
            continue
        reason = degeneration(caption, question.wording.language) if caption else NullReason.REFUSAL
        if reason is None or degenerate is not None:
            return Answered(caption if reason is None else None, reason)
        degenerate = reason
        request = Request(question.messages, question.temperatures[1])
    return request


def _read(reply: Reply) -> Caption | None:
    """The caption of an answer; None for a refusal. Raises AnswerError."""
    if reply.was_refused:
        return None
    try:
        return parse_answer(reply.text, reply.was_cut)
    except AnswerError:
        if is_refusal(reply.text):
            return None
        raise
