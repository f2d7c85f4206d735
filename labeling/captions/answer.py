"""A captioner's answer: the JSON object that is asked for, as a schema and as a checked value."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

_Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=600)]
_SHOWN = 200  # characters of an answer in a message


class AnswerError(ValueError):
    """An answer that is not what was asked for. The message can be shown to who gave it."""


class Caption(BaseModel):
    """What is said of one clip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caption_short: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
    caption_medium: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=900)]
    caption_dense: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
    subject: _Words
    action: _Words
    scene: _Words
    camera: _Words
    style: _Words
    lighting: _Words

    @property
    def lengths(self) -> tuple[str, str, str]:
        """The caption in each of its lengths, the shortest first."""
        return self.caption_short, self.caption_medium, self.caption_dense


FIELDS = tuple(Caption.model_fields)


def json_schema(descriptions: Mapping[str, str]) -> dict[str, Any]:
    """JSON schema of an answer: every field a text, required, with a description and a longest length."""
    bounds = {name: (field["minLength"], field["maxLength"]) for name, field in Caption.model_json_schema()["properties"].items()}
    texts = {
        name: {"type": "string", "description": descriptions[name], "minLength": bounds[name][0], "maxLength": bounds[name][1]}
        for name in FIELDS
    }
    return {"type": "object", "properties": texts, "required": list(FIELDS), "additionalProperties": False}


def parse_answer(text: str, was_cut: bool = False) -> Caption:
    """Read an answer; words or a code fence around the object, and thoughts before it, are passed over. Raises AnswerError.

    `was_cut`: the answer ended at the limit of tokens.
    """
    body = text.rsplit("</think>", 1)[-1]
    start = body.find("{")
    if start < 0:
        raise AnswerError(f"there is no JSON object in the answer {_begin(text)}")
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(body, start)
    except (json.JSONDecodeError, RecursionError) as error:
        if was_cut:
            raise AnswerError("the answer is too long and was cut off: say less") from error
        raise AnswerError(f"the JSON cannot be read ({error}): {_begin(text)}") from error
    try:
        return Caption.model_validate(found)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False, include_input=False))
        raise AnswerError("; ".join(problems)) from error


def _begin(text: str) -> str:
    line = " ".join(text.split())
    return json.dumps(line[:_SHOWN] + ("…" if len(line) > _SHOWN else ""), ensure_ascii=False)
