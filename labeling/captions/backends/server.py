"""Captions from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, or a paid one.

A request is tried again where another try may help, and one that cannot be answered says so in one line.
"""

import asyncio
import base64
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from labeling.captions.backends.connection import TRY_AGAIN, Again, Server, connect, json_body, safe_url
from labeling.captions.backends.protocol import Ask, CaptionError, Unanswered
from labeling.captions.dialogue import Message, Reply, Request
from schemas.records import FailureCode

if TYPE_CHECKING:
    import httpx2

_LOG = logging.getLogger(__name__)
_LONGEST_WAIT_S = 60.0
_LONGEST_ASKED_WAIT_S = 120.0  # that a server can ask for by Retry-After
_NAMED = 20  # models that are listed in a message
_NO_FORMAT = re.compile(r"response_?format|json_?(schema|object)|structured.?output|guided|grammar", re.IGNORECASE)
_FORMATS = ("json_schema", "json_object", None)  # kinds of response_format, the best first

_sleep = asyncio.sleep


@dataclass(frozen=True)
class ServerBackend:
    """A model behind the chat completions of `base_url`, which ends with /v1 for most servers.

    `timeout_s` is for one try, from connecting to the last byte. Waits between tries grow from `backoff_s`, at random, to a minute; a
    server's Retry-After is heeded up to two minutes. `key_variable` names the environment variable that holds the key; none is sent where
    it is not set.
    """

    base_url: str = field(repr=False)  # may hold a password: `safe_url` of it is for show
    model: str
    concurrency: int = 32
    timeout_s: float = 120.0
    tries: int = 6
    max_tokens: int = 1024
    key_variable: str = "OPENAI_API_KEY"
    backoff_s: float = 0.5

    @asynccontextmanager
    async def open(self, schema: dict[str, Any]) -> AsyncIterator[Ask]:
        """Connect. Raises CaptionError for a base_url or key that cannot be used; whether the server is there, the first request shows."""
        async with connect(self.base_url, self.key_variable, self.concurrency) as server:
            yield _Conversation(self, server, _without_lengths(schema)).ask


def only_model(base_url: str, key_variable: str = "OPENAI_API_KEY", timeout_s: float = 30.0) -> str:
    """The id of the one model that a server has. Raises CaptionError, with the list, where it has another number of them."""

    async def ask() -> list[str]:
        async with connect(base_url, key_variable, 1) as server:
            return await server.models(timeout_s)

    models = asyncio.run(ask())
    if len(models) != 1:
        raise CaptionError(f"{safe_url(base_url)} offers {_listed(models)}: say which with --model")
    return models[0]


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date), 0 to 120; None where it cannot be read.

    `now_s`: seconds since the epoch.
    """
    if value is None:
        return None
    try:
        asked_s = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        asked_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s
    return None if math.isnan(asked_s) else min(max(asked_s, 0.0), _LONGEST_ASKED_WAIT_S)


@dataclass(frozen=True)
class _Dialect:
    """What a server understands, as far as is known."""

    answer_format: str | None = _FORMATS[0]
    token_limit: str = "max_tokens"

    def without(self, message: str) -> "_Dialect | None":
        """The dialect to go on with after a refusal; None where it is about something else."""
        if self.token_limit == "max_tokens" and "max_completion_tokens" in message:
            return replace(self, token_limit="max_completion_tokens")
        if self.answer_format and _NO_FORMAT.search(message):
            return replace(self, answer_format=_FORMATS[_FORMATS.index(self.answer_format) + 1])
        return None


class _Conversation:
    """All requests of one `open`. What one learns of the server, the others use."""

    def __init__(self, backend: ServerBackend, server: Server, schema: dict[str, Any]):
        self._backend = backend
        self._server = server
        self._dialect = _Dialect()
        self._has_warned = False
        self._slots = asyncio.Semaphore(backend.concurrency)
        strict = {"name": "caption", "strict": True, "schema": schema}
        self._formats = {"json_schema": {"type": "json_schema", "json_schema": strict}, "json_object": {"type": "json_object"}}
        self._backoff = wait_random_exponential(multiplier=2 * backend.backoff_s, min=backend.backoff_s, max=_LONGEST_WAIT_S)

    async def ask(self, request: Request) -> Reply:
        # Pictures are most of a request: its messages are serialized once, whatever is tried with them.
        messages = f"[{', '.join(map(_message, request.messages))}]"
        retrying = AsyncRetrying(  # not shared: it keeps the state of one call at a time
            stop=stop_after_attempt(self._backend.tries),
            wait=self._wait_s,
            retry=retry_if_exception_type(Again),
            sleep=_sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try, messages, request.temperature)
        except Again as error:
            failure = Unanswered(error.code, f"{error} ({self._backend.tries} tries)")
        raise failure

    def _wait_s(self, state: RetryCallState) -> float:
        failure = state.outcome and state.outcome.exception()
        asked_s = failure.wait_s if isinstance(failure, Again) else None
        return max(self._backoff(state), asked_s or 0.0)

    async def _try(self, messages: str, temperature: float) -> Reply:
        async with self._slots:
            while True:
                dialect = self._dialect
                began_s = time.perf_counter()
                content = self._content(dialect, messages, temperature)
                response = await self._server.send("/chat/completions", self._backend.timeout_s, content)
                if response.is_success:
                    return self._reply(response, time.perf_counter() - began_s)
                if not self._learns(dialect, response):
                    await self._refuse(response)

    def _content(self, dialect: _Dialect, messages: str, temperature: float) -> bytes:
        fields: dict[str, Any] = {"model": self._backend.model, "temperature": temperature, dialect.token_limit: self._backend.max_tokens}
        if dialect.answer_format:
            fields["response_format"] = self._formats[dialect.answer_format]
        return f'{json.dumps(fields, ensure_ascii=False)[:-1]}, "messages": {messages}}}'.encode()

    def _learns(self, dialect: _Dialect, response: "httpx2.Response") -> bool:
        """Whether to ask at once in another way. Many requests may be refused before the first of them changes the dialect for all."""
        if response.status_code not in (400, 422, 501):
            return False
        other = dialect.without(self._server.said(response))
        if other is None:
            return False
        if self._dialect is dialect:
            self._dialect = other
            if other.answer_format != "json_schema" and not self._has_warned:
                self._has_warned = True
                _LOG.warning("%s has no JSON-schema mode; the schema is asked for in the prompt only", self._server.where)
        return True

    async def _refuse(self, response: "httpx2.Response") -> None:
        """Raise what a response without an answer means: CaptionError, Again or Unanswered."""
        server, status, said = self._server, response.status_code, self._server.said(response)
        server.check(response)
        if status == 404:
            try:
                offer = f"it offers {_listed(await server.models(self._backend.timeout_s))}"
            except CaptionError:
                offer = "it does not list its models either, so the base URL may be wrong: most end with /v1"
            raise CaptionError(f"{server.where} has no such path, or no model {self._backend.model!r} (404: {said}); {offer}")
        message = f"{server.where} answered {status}: {said}"
        if status in TRY_AGAIN:
            raise Again(FailureCode.UNAVAILABLE, message, retry_after_s(response.headers.get("Retry-After"), time.time()))
        raise Unanswered(FailureCode.REJECTED, server.clear(message))

    def _reply(self, response: "httpx2.Response", seconds: float) -> Reply:
        match json_body(response):
            case {"choices": [{"message": {**message}} as choice, *_], **rest}:
                usage = rest.get("usage")
                counts = usage if isinstance(usage, dict) else {}
                return Reply(
                    text=self._server.redact(_text(message.get("content"))),
                    tokens_in=_count(counts.get("prompt_tokens")),
                    tokens_out=_count(counts.get("completion_tokens")),
                    seconds=seconds,
                    was_cut=choice.get("finish_reason") == "length",
                    was_refused=choice.get("finish_reason") == "content_filter" or bool(message.get("refusal")),
                )
        said = self._server.said(response)
        raise Again(FailureCode.UNAVAILABLE, f"{self._server.where} answered {response.status_code} without a chat completion: {said}")


def _message(message: Message) -> str:
    """A message as JSON."""
    if message.role == "user":
        return f'{{"role": "user", "content": [{", ".join(map(_part, message.parts))}]}}'
    text = "\n".join(part for part in message.parts if isinstance(part, str))
    return json.dumps({"role": message.role, "content": text}, ensure_ascii=False)


def _part(part: str | bytes) -> str:
    """A part of a message as JSON."""
    if isinstance(part, str):
        return json.dumps({"type": "text", "text": part}, ensure_ascii=False)
    # Base64 needs no escapes, which are slow to look for.
    return f'{{"type": "image_url", "image_url": {{"url": "data:image/jpeg;base64,{base64.b64encode(part).decode()}"}}}}'


def _without_lengths(schema: Any) -> Any:
    """A schema without the lengths of texts, which not every server takes."""
    if isinstance(schema, Mapping):
        return {name: _without_lengths(value) for name, value in schema.items() if name not in ("minLength", "maxLength")}
    return schema


def _text(content: Any) -> str:
    """The text of a message's content, which some servers give in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _listed(models: list[str]) -> str:
    if not models:
        return "no model"
    more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
    return f"{', '.join(models[:_NAMED])}{more}"
