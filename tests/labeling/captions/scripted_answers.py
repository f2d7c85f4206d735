"""What the scripted server answers in good order: whole HTTP responses, right ones and wrong ones, by name."""

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from tests.labeling.captions.scripted_words import caption, language_of, marker_of


@dataclass(frozen=True)
class Asked:
    """One request as a script sees it. `times`: how often the same messages have been asked before."""

    number: int
    fingerprint: str
    times: int
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)  # by lower-case name

    @property
    def text(self) -> str:
        """All texts of the messages."""
        contents = (message["content"] for message in self.body["messages"])
        parts = (part for content in contents for part in ([content] if isinstance(content, str) else content))
        return "\n".join(part if isinstance(part, str) else part.get("text", "") for part in parts)


def http(status: int, body: Any, headers: dict[str, str] | None = None) -> bytes:
    """A response; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    head = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    return "\r\n".join(head).encode() + content


def error(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> bytes:
    """A response that says in OpenAI's way what is wrong."""
    return http(status, {"error": {"message": message, "type": "scripted", **more}}, headers)


def _completion(asked: Asked, content: Any, finish: str = "stop", choices: int = 1, **message: Any) -> dict[str, Any]:
    # Counted, not drawn from the messages, as of a server that was asked twice.
    answer_id = f"chatcmpl-{asked.fingerprint[:16]}-{asked.number}"
    said = {"role": "assistant", "content": content, **message}
    others = [{**said, "content": "another choice"}] * (choices - 1)
    tokens_in, tokens_out = _tokens_in(asked), max(1, len(content or "") // 4)
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.body.get("model"),
        "choices": [{"index": k, "message": one, "finish_reason": finish} for k, one in enumerate([said, *others])],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }


def _tokens_in(asked: Asked) -> int:
    pictures = re.findall(r'"data:image/jpeg;base64,([^"]*)"', json.dumps(asked.body["messages"]))
    return len(asked.text) // 4 + sum(_pixels(base64.b64decode(one[:8192])) // 784 for one in pictures)


def _pixels(jpeg: bytes) -> int:
    """Pixels of a JPEG picture by its frame header; 0 if it has none."""
    at = 2
    while at + 9 < len(jpeg) and jpeg[at] == 0xFF:
        kind, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4])
        if 0xC0 <= kind <= 0xC3:
            return int.from_bytes(jpeg[at + 5 : at + 7]) * int.from_bytes(jpeg[at + 7 : at + 9])
        at += 2 + length
    return 0


def good_answer(asked: Asked) -> str:
    """The caption that `good` answers with, as JSON."""
    return json.dumps(_caption(asked), ensure_ascii=False)


def _caption(asked: Asked, language: str | None = None) -> dict[str, str]:
    return caption(asked.fingerprint, language or language_of(asked.text), marker_of(asked.text))


def _good(asked: Asked) -> bytes:
    return http(200, _completion(asked, good_answer(asked)))


def _said(asked: Asked, found: Any, **more: Any) -> bytes:
    return http(200, _completion(asked, json.dumps(found, ensure_ascii=False), **more))


def _wrong_schema(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = _caption(asked)
    wrongs: list[Callable[[], Any]] = [
        lambda: found.pop("camera"),
        lambda: found.update(mood="calm"),
        lambda: found.update(style=["plain", "calm"]),
        lambda: found.update(action=None),
    ]
    wrongs[int(asked.fingerprint[:4], 16) % len(wrongs)]()
    return found


def _degenerate(asked: Asked) -> dict[str, str]:
    found = _caption(asked)
    return {**found, "caption_dense": " ".join([found["caption_short"]] * 12)}


def _needs(asked: Asked, allowed: tuple[str | None, ...]) -> bytes:
    kind = asked.body.get("response_format", {}).get("type")
    if kind in allowed:
        return _good(asked)
    return error(400, f"Unsupported response_format: '{kind}' is not supported by this server")


def _token_limit(asked: Asked) -> bytes:
    if "max_tokens" not in asked.body:
        return _good(asked)
    return error(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")


def _credentials(asked: Asked) -> str:
    return asked.headers.get("authorization", "nothing").removeprefix("Bearer ")


ANSWERS: dict[str, Callable[[Asked, str], bytes]] = {
    "good": lambda asked, _: _good(asked),
    "429": lambda _, after: error(429, "slow down", {"Retry-After": after} if after else None),
    "429-date": lambda _, after: error(429, "slow down", {"Retry-After": formatdate(time.time() + float(after), usegmt=True)}),
    "429-quota": lambda *_: error(429, "You exceeded your current quota.", code="insufficient_quota"),
    "400": lambda *_: error(400, "This model's maximum context length is 4096 tokens.\nPlease reduce the length of the messages."),
    "400-long": lambda asked, _: error(400, "x" * 290 + _credentials(asked) + "y" * 1000),
    "401": lambda asked, _: error(401, f"Incorrect API key provided: {_credentials(asked)}. You can find yours at http://localhost/keys."),
    "402": lambda *_: error(402, "no credit is left"),
    "403": lambda asked, _: http(403, f"forbidden to {_credentials(asked)}".encode(), {"Content-Type": "text/plain"}),
    "404": lambda asked, _: error(404, f"The model `{asked.body.get('model')}` does not exist."),
    "408": lambda *_: error(408, "too slow"),
    "409": lambda *_: error(409, "busy with another"),
    "422": lambda *_: http(422, {"detail": [{"loc": ["body", "messages"], "msg": "too many pictures", "type": "value_error"}]}),
    "500": lambda asked, _: error(500, f"it broke down for {_credentials(asked)}"),
    "503": lambda *_: http(503, b"<html><body>no server is up</body></html>", {"Content-Type": "text/html"}),
    "redirect": lambda _, where: http(307, b"", {"Location": where}),
    "broken-json": lambda asked, _: http(200, _good(asked).split(b"\r\n\r\n", 1)[1][:-40]),
    "no-json": lambda *_: http(200, b"<html>welcome</html>", {"Content-Type": "text/html"}),
    "no-choices": lambda *_: http(200, {"error": {"message": "the engine is asleep"}}),
    "empty-choices": lambda asked, _: http(200, {**_completion(asked, ""), "choices": []}),
    "no-message": lambda asked, _: http(200, {**_completion(asked, ""), "choices": [{"index": 0, "finish_reason": "stop"}]}),
    "cut": lambda asked, _: http(200, _completion(asked, good_answer(asked)[: len(good_answer(asked)) // 2], finish="length")),
    "wrong-schema": lambda asked, _: _said(asked, _wrong_schema(asked)),
    "degenerate": lambda asked, _: _said(asked, _degenerate(asked)),
    "wrong-language": lambda asked, _: _said(asked, _caption(asked, "en" if language_of(asked.text) == "zh" else "zh")),
    "refusal": lambda asked, _: http(200, _completion(asked, "I'm sorry, but I can't help with describing this video.")),
    "refusal-field": lambda asked, _: http(200, _completion(asked, None, refusal="I can't help with that.")),
    "content-filter": lambda asked, _: http(200, _completion(asked, None, finish="content_filter")),
    "two-choices": lambda asked, _: http(200, _completion(asked, good_answer(asked), choices=2)),
    "parts": lambda asked, _: http(200, _completion(asked, [{"type": "text", "text": half} for half in _halves(good_answer(asked))])),
    "no-usage": lambda asked, _: http(200, {**_completion(asked, good_answer(asked)), "usage": None}),
    "odd-usage": lambda asked, _: http(200, {**_completion(asked, good_answer(asked)), "usage": {"prompt_tokens": "7"}}),
    "echoes-key": lambda asked, _: http(200, _completion(asked, f"you are {_credentials(asked)}"), {"X-Seen": _credentials(asked)}),
    "json-object-only": lambda asked, _: _needs(asked, ("json_object", None)),
    "no-response-format": lambda asked, _: _needs(asked, (None,)),
    "no-max-tokens": lambda asked, _: _token_limit(asked),
}
"""What is answered in good order, by name: the whole response of a request and a value."""


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]
