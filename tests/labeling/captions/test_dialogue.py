"""What is asked next, as a function of the answers so far."""

import json
from dataclasses import dataclass

import pytest

from labeling.captions.answer import Caption
from labeling.captions.dialogue import Answered, Message, Question, Reply, Request, Unanswerable, advance
from schemas.records import NullReason
from tests.labeling.captions.test_words import GOOD


@dataclass(frozen=True)
class Plain:
    language: str = "en"

    def repair(self, problem):
        return f"wrong: {problem}"


QUESTION = Question((Message("user", ("what is seen?", b"jpeg")),), Plain(), (0.2, 0.7))
FINE, BROKEN = json.dumps(GOOD), "{"
DULL = json.dumps({**GOOD, "caption_short": "The video shows a dog"})
REFUSED = "I'm sorry, I can't help with that."


def after(*texts):
    return advance(QUESTION, [Reply(text, 10, 5, 0.1) for text in texts])


def test_the_first_request_is_the_question():
    assert after() == Request(QUESTION.messages, 0.2)


def test_a_fitting_answer_ends_it():
    assert after(FINE) == Answered(Caption(**GOOD))


def test_a_wrong_answer_is_put_back_once_with_what_is_wrong():
    step = after(BROKEN)
    assert step.temperature == 0.2 and step.messages[:1] == QUESTION.messages
    assert step.messages[1] == Message("assistant", (BROKEN,)) and step.messages[2].parts[0].startswith("wrong: the JSON cannot be read")
    assert after(BROKEN, FINE) == Answered(Caption(**GOOD))
    assert isinstance(after(BROKEN, BROKEN), Unanswerable)


@pytest.mark.parametrize("text, reason", [(DULL, NullReason.BOILERPLATE), (REFUSED, NullReason.REFUSAL)])
def test_a_degenerate_answer_is_asked_for_once_more_at_another_temperature(text, reason):
    assert after(text) == Request(QUESTION.messages, 0.7)
    assert after(text, FINE) == Answered(Caption(**GOOD))
    assert after(text, text) == Answered(None, reason)


def test_both_kinds_of_wrong_together_end_too():
    assert after(DULL, BROKEN).temperature == 0.7 and len(after(DULL, BROKEN).messages) == 3
    assert after(DULL, BROKEN, BROKEN) == Answered(None, NullReason.BOILERPLATE)  # it did answer, if not well
    assert after(BROKEN, DULL) == Request(QUESTION.messages, 0.7)
    assert isinstance(after(BROKEN, DULL, BROKEN), Answered)
    assert after(BROKEN, DULL, FINE) == Answered(Caption(**GOOD))


def test_a_server_that_says_it_refused_is_believed():
    replies = [Reply(FINE, 10, 5, 0.1, was_refused=True)] * 2
    assert advance(QUESTION, replies) == Answered(None, NullReason.REFUSAL)
