"""The connection to an OpenAI-compatible server, and what may be said of it.

The key comes from the environment, goes to the server in a header, and to nowhere else: what the server says is cleared of it before it is
passed on.
"""

import asyncio
import base64
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit
from weakref import WeakKeyDictionary

from labeling.captions.backends.protocol import CaptionError
from schemas.records import FailureCode

if TYPE_CHECKING:
    import httpx2
    import openai

_LOGGERS = ("openai._base_client", "httpx2", *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
_KEPT_IDLE_S = 4.0  # vLLM and others on uvicorn hang up after 5
_MESSAGE = 300  # characters of a server's message that are passed on
_SHORTEST_SECRET = 4  # characters; a shorter one, as the "x" that some servers want, would be struck out of ordinary words
_MOST_REFUSALS = 1000  # different ones that are remembered
TRY_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses after which another try may succeed."""


def safe_url(url: str) -> str:
    """A URL without user, password, query and fragment: for messages and records."""
    scheme, separator, rest = url.strip().partition("://")
    # A password may hold any character, so all before the last @ goes.
    return scheme.rpartition("@")[2] + separator + re.split(r"[?#]", rest.rpartition("@")[2])[0]


class Again(Exception):
    """A try that failed in a way that another may not."""

    def __init__(self, code: FailureCode, message: str, wait_s: float | None = None):
        super().__init__(message)
        self.code = code
        self.wait_s = wait_s  # as the server asks


@dataclass(frozen=True)
class Server:
    """A connected client, and what may be said of it."""

    client: "openai.AsyncOpenAI"
    where: str
    key_state: str  # the variable of the key and whether it is set
    headers: Mapping[str, Any]
    secrets: tuple[str, ...] = field(repr=False)

    async def send(self, path: str, timeout_s: float, content: bytes | None = None) -> "httpx2.Response":
        """A response with any status, to a GET where there is no content. Raises Again where there is none."""
        import httpx2
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        # Nothing is raised while the client's exceptions are in hand: they hold the request, and with it the key.
        try:
            async with asyncio.timeout(timeout_s):
                if content is None:
                    return await self.client.get(path, cast_to=httpx2.Response, options={"headers": self.headers})
                # Bytes, for the client's own way through a body of pictures takes longer than all the rest of a request.
                return await self.client.post(path, cast_to=httpx2.Response, content=content, options={"headers": self.headers})
        except APIStatusError as error:
            return error.response
        except (TimeoutError, APITimeoutError):
            failure = Again(FailureCode.TIMEOUT, f"no answer from {self.where} within {timeout_s:g} s")
        except APIConnectionError as error:
            cause = error.__cause__ or error
            failure = Again(FailureCode.UNAVAILABLE, self.clear(f"no answer from {self.where}: {str(cause) or type(cause).__name__}"))
        raise failure

    async def models(self, timeout_s: float) -> list[str]:
        """Ids of the models on offer. Raises CaptionError."""
        try:
            response = await self.send("/models", timeout_s)
        except Again as error:
            failure = str(error)
        else:
            self.check(response)
            match json_body(response):
                case {"data": [*models]} if response.is_success:
                    return [self.clear(str(model["id"])) for model in models if isinstance(model, dict) and "id" in model]
            failure = f"{self.where} does not list its models ({response.status_code}: {self.said(response)}): name one with --model"
        raise CaptionError(failure)

    def check(self, response: "httpx2.Response") -> None:
        """Raise CaptionError for what no other request would mend."""
        status, said = response.status_code, self.said(response)
        if response.is_redirect:
            target = safe_url(response.headers.get("Location", ""))
            raise CaptionError(self.clear(f"{self.where} redirects to {target}, which is not followed: set --base-url to where it leads"))
        if status in (401, 403):
            raise CaptionError(f"{self.where} does not let us in ({status}; {self.key_state}): {said}")
        if status == 402 or (status == 429 and "insufficient_quota" in response.text):
            raise CaptionError(f"{self.where} wants to be paid first ({status}): {said}")

    def said(self, response: "httpx2.Response") -> str:
        """What a server says is wrong, in one line."""
        match json_body(response):
            case {"error": {"message": str(said)}} | {"error": str(said)} | {"message": str(said)} | {"detail": str(said)}:
                pass
            case {"detail": [*problems]}:  # FastAPI's; what it was given is left out
                said = "; ".join(_problem(problem) for problem in problems)
            case _:
                said = response.text
        return self.clear(said) or response.reason_phrase or "no message"

    def clear(self, text: str) -> str:
        """One line of at most 300 characters, without secrets."""
        line = " ".join(self.redact(text).split())
        return line if len(line) <= _MESSAGE else line[: _MESSAGE - 1] + "…"

    def redact(self, text: str) -> str:
        """A text without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "[redacted]")
        return text


@asynccontextmanager
async def connect(base_url: str, key_variable: str, concurrency: int) -> AsyncIterator[Server]:
    """A client for a server. Raises CaptionError for a URL or a key that cannot be used."""
    import httpx2
    import openai

    where = safe_url(base_url)
    try:
        parts = urlsplit(base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and not (parts.query or parts.fragment or "@" in parts.path or re.search(r"\s", where))
    except ValueError:
        usable = False
    if not usable:
        raise CaptionError(f"cannot use the base URL {where}: it must be http:// or https://, a host, and a path without ? and #")
    key = os.environ.get(key_variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise CaptionError(f"the key in ${key_variable} has characters that cannot be sent")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    client = httpx2.AsyncClient(
        # The password stays out of the URL, which httpx2 logs.
        auth=(user, password) if user or password else None,
        limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=_KEPT_IDLE_S),
        timeout=None,  # a whole try is timed
        follow_redirects=False,  # neither key nor pictures go where the user did not send them
        event_hooks={"response": [EchoGuard().check]},
    )
    forms = [form for secret in (key, user, password) for form in (secret, quote(secret, safe=""), repr(secret)[1:-1])]
    if user or password:
        forms.append(base64.b64encode(f"{user}:{password}".encode()).decode())
    secrets = tuple(sorted({form for form in forms if len(form) >= _SHORTEST_SECRET}, key=len, reverse=True))
    opened = openai.AsyncOpenAI(
        base_url=where,
        api_key=key or "none",  # never None, for which openai would look into its own variables
        max_retries=0,
        timeout=None,
        http_client=client,
    )
    server = Server(
        client=opened,
        where=where,
        key_state=f"${key_variable} is {'set' if key else 'not set'}",
        headers={"Content-Type": "application/json", **({} if key else {"Authorization": openai.Omit()})},
        secrets=secrets,
    )
    async with opened:
        with _clean_logs(server.redact):
            yield server


@contextmanager
def _clean_logs(redact: Callable[[str], str]) -> Iterator[None]:
    """Keep secrets out of what the HTTP libraries log: at the level of debugging that has all headers of a response."""

    def clean(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if (cleaned := redact(said)) != said:
            record.msg, record.args = cleaned, ()
        return True

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(clean)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(clean)


class EchoGuard:
    """Takes no response for another request's answer where a server sends one twice on a connection.

    HTTP/1.1 has nothing but their order to tell responses apart, and what is read too early waits in the connection's buffer: after a
    repeated response every request on the connection would get the answer of the one before. So a body that equals the last one of its
    connection ends the connection, and the request is tried on another; but for a refusal that came on two connections by itself: that
    is what the server says to many.
    """

    def __init__(self) -> None:
        self._last: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()  # by connection
        self._refusals: Counter[bytes] = Counter()  # digest -> on how many connections it came by itself

    async def check(self, response: "httpx2.Response") -> None:
        import httpx2

        # Read before the connection goes back to the pool, so that no other request is on it by then.
        stream, connection = response.stream, response.extensions["network_stream"]
        body = b"".join([part async for part in stream])  # type: ignore[union-attr]
        is_repeated = self._last.get(connection) == body
        self._last[connection] = body
        refusal = b"" if response.is_success else sha256(body).digest()
        if refusal and not is_repeated and len(self._refusals) < _MOST_REFUSALS:
            self._refusals[refusal] += 1
        if is_repeated:
            await connection.aclose()
        await stream.aclose()  # type: ignore[union-attr]
        response.stream = httpx2.ByteStream(body)
        # "Too many requests" may well come twice in the same words, and its Retry-After counts.
        if is_repeated and response.status_code not in TRY_AGAIN and self._refusals[refusal] < 2:
            raise httpx2.RemoteProtocolError("the server sent an earlier response again", request=response.request)


def json_body(response: "httpx2.Response") -> Any:
    """The body; None where it is not JSON."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _problem(problem: Any) -> str:
    match problem:
        case {"loc": [*place], "msg": str(said)}:
            return f"{'.'.join(map(str, place))}: {said}"
    return str(problem)
