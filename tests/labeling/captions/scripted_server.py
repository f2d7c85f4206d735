"""An OpenAI-compatible server that answers, or misbehaves, as a script says: real HTTP on loopback, and a log of what it was asked.

A script is a function of a request that names a behavior; `always`, `first` and `mixed` make scripts. In a test:

    with ScriptedServer(lambda asked: "500" if asked.times == 0 else "good") as server:
        ...  # server.base_url, server.lines

As a program (`python -m tests.labeling.captions.scripted_server --port 0 --latency 0.2 --log FILE --seed 1 --script mixed`) it prints its
address, serves until it is ended, and appends one JSON line per request to FILE as soon as that request is over.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.labeling.captions.scripted_answers import ANSWERS, Asked, error, http

CHAT = "/v1/chat/completions"
_DRIP_S = 0.02  # between two bytes of a dripping answer
_LATE_S = 0.3

Script = Callable[[Asked], str]
"""The name of a behavior, with its value after "=" where it takes one: "good", "429=2", "redirect=http://127.0.0.1:1/"."""


@dataclass(frozen=True)
class Line:
    """One request in the log. Times are seconds since the epoch."""

    number: int
    fingerprint: str  # SHA-256 of the messages
    times: int
    did: str
    model: str | None
    temperature: float | None
    response_format: str | None  # its type
    token_limit: str | None  # the name under which it came
    in_flight: int  # requests under way, this one included, when it arrived
    connection: int
    arrived_s: float
    answered_s: float
    connected: bool  # the client was still there when it was answered


@dataclass
class _Exchange:
    """One request and the connection that it came by."""

    asked: Asked
    value: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    owed: list[bytes]  # what is sent on this connection before the next answer
    connected: bool = True

    async def send(self, data: bytes) -> None:
        self.connected = not (self.reader.at_eof() or self.writer.is_closing())
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with a TCP reset, not in good order."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def _hang(exchange: _Exchange) -> None:
    await exchange.reader.read(1)  # until the client goes
    exchange.connected = False
    exchange.writer.close()


async def _drip(exchange: _Exchange) -> None:
    """A good answer, one byte at a time, for as long as the client stays."""
    for byte in ANSWERS["good"](exchange.asked, ""):
        await exchange.send(bytes([byte]))
        await asyncio.sleep(_DRIP_S)


async def _late(exchange: _Exchange) -> None:
    """An answer that others overtake."""
    await asyncio.sleep(_LATE_S)
    await exchange.send(ANSWERS[exchange.value](exchange.asked, ""))


async def _reset(exchange: _Exchange) -> None:
    exchange.reset()


async def _reset_after_headers(exchange: _Exchange) -> None:
    headers, _, body = ANSWERS["good"](exchange.asked, "").partition(b"\r\n\r\n")
    await exchange.send(headers + b"\r\n\r\n" + body[:20])
    exchange.reset()


async def _truncated(exchange: _Exchange) -> None:
    await exchange.send(ANSWERS["good"](exchange.asked, "")[:-40])
    exchange.writer.close()


async def _twice(exchange: _Exchange) -> None:
    """The same answer two times at once."""
    await exchange.send(ANSWERS["good"](exchange.asked, "") * 2)


async def _twice_late(exchange: _Exchange) -> None:
    """The same answer once more, but only when the next request comes by this connection."""
    answer = ANSWERS["good"](exchange.asked, "")
    exchange.owed.append(answer)
    await exchange.send(answer)


async def _error_twice(exchange: _Exchange) -> None:
    await exchange.send(ANSWERS[exchange.value](exchange.asked, "") * 2)


CONNECTIONS: dict[str, Callable[[_Exchange], Awaitable[None]]] = {
    "hang": _hang,
    "drip": _drip,
    "late": _late,
    "reset": _reset,
    "reset-after-headers": _reset_after_headers,
    "truncated": _truncated,
    "twice": _twice,
    "twice-late": _twice_late,
    "error-twice": _error_twice,
}
"""What is done to the connection, by name."""


def always(behavior: str) -> Script:
    """The same for every request."""
    return lambda _: behavior


def first(behavior: str, times: int = 1, then: str = "good") -> Script:
    """One behavior for the first `times` requests with the same messages, another after that."""
    return lambda asked: behavior if asked.times < times else then


_MIXED = {
    "429": 4,
    "429=0.05": 3,
    "500": 4,
    "503": 3,
    "reset": 3,
    "reset-after-headers": 3,
    "truncated": 3,
    "broken-json": 3,
    "no-choices": 2,
    "cut": 3,
    "wrong-schema": 4,
    "degenerate": 2,
    "wrong-language": 2,
    "refusal": 2,
    "two-choices": 2,
    "twice": 2,
    "400": 1,
}  # in a hundred first requests; the rest is good


def mixed(seed: int) -> Script:
    """Of a hundred first requests half are good and half are something else; asked again, one in ten. A function of the messages and of
    how often they were asked, so that it does the same in any order."""
    wheel = [name for name, share in _MIXED.items() for _ in range(share)]

    def script(asked: Asked) -> str:
        drawn = int.from_bytes(hashlib.sha256(f"{seed} {asked.fingerprint} {asked.times}".encode()).digest()[:8])
        if asked.times and drawn // 100 % 5:
            return "good"
        place = drawn % 100
        return wheel[place] if place < len(wheel) else "good"

    return script


def named_script(name: str, seed: int) -> Script:
    """`mixed`, or a behavior for all requests, or "first BEHAVIOR": that for the first time that messages are asked, then good."""
    if name == "mixed":
        return mixed(seed)
    word, _, behavior = name.rpartition(" ")
    if behavior.partition("=")[0] not in {**ANSWERS, **CONNECTIONS} or word not in ("", "first"):
        raise SystemExit(f"no script {name!r}: mixed, or [first] one of {', '.join([*ANSWERS, *CONNECTIONS])}")
    return first(behavior) if word else always(behavior)


class ScriptedServer:
    """The server, in a thread of its own while it is entered. `latency_s` is waited before every behavior."""

    def __init__(self, script: Script, latency_s: float = 0, log: Path | None = None, models: tuple[str, ...] = ("tiny",), port: int = 0):
        self.lines: list[Line] = []  # of the requests that are over
        self.asked: list[Asked] = []  # in the order in which they came
        self._script, self._latency_s, self._models = script, latency_s, models
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if log else None
        self._times: Counter[str] = Counter()
        self._in_flight = self._connections = 0
        self._end = asyncio.Event()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> "ScriptedServer":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self.serve(),), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    async def serve(self) -> None:
        """Serve until the end is asked for; requests under way then are logged as not connected."""
        server = await asyncio.start_server(self._connection, sock=self._socket)
        await self._end.wait()
        server.close()
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        if self._log is not None:
            os.close(self._log)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection, owed = self._connections, []
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                target, headers, content = await _read_request(reader)
                if target == CHAT:
                    await self._chat(connection, owed, headers, content, reader, writer)
                elif target == "/v1/models":
                    writer.write(http(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self._models]}))
                else:
                    writer.write(error(404, "Not Found"))
        writer.close()

    async def _chat(
        self,
        connection: int,
        owed: list[bytes],
        headers: dict[str, str],
        content: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        arrived_s = time.time()
        self._in_flight += 1
        in_flight = self._in_flight
        body = json.loads(content)
        fingerprint = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()
        asked = Asked(len(self.asked), fingerprint, self._times[fingerprint], body, headers)
        self._times[fingerprint] += 1
        self.asked.append(asked)
        did = self._script(asked)
        name, _, value = did.partition("=")
        exchange = _Exchange(asked, value, reader, writer, owed, connected=False)
        try:
            if self._latency_s:
                await asyncio.sleep(self._latency_s)
            while owed:
                await exchange.send(owed.pop())
            if name in ANSWERS:
                await exchange.send(ANSWERS[name](asked, value))
            else:
                exchange.connected = not (reader.at_eof() or writer.is_closing())
                await CONNECTIONS[name](exchange)
        finally:
            self._in_flight -= 1
            line = Line(
                number=asked.number,
                fingerprint=fingerprint,
                times=asked.times,
                did=did,
                model=body.get("model"),
                temperature=body.get("temperature"),
                response_format=body.get("response_format", {}).get("type"),
                token_limit=next((one for one in ("max_tokens", "max_completion_tokens") if one in body), None),
                in_flight=in_flight,
                connection=connection,
                arrived_s=arrived_s,
                answered_s=time.time(),
                connected=exchange.connected,
            )
            self.lines.append(line)
            if self._log is not None:
                os.write(self._log, json.dumps(vars(line)).encode() + b"\n")


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Target, headers and body of the next request. Raises IncompleteReadError at the end of the connection."""
    request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return request.split()[1], headers, await reader.readexactly(int(headers.get("content-length", 0)))


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--log", type=Path, help="file to append a JSON line per request to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--script", default="good", help="mixed, or [first] a behavior")
    given = parser.parse_args()
    server = ScriptedServer(named_script(given.script, given.seed), given.latency, given.log, port=given.port)
    print(server.base_url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve())


if __name__ == "__main__":
    main()
