"""The backend for OpenAI-compatible servers, against a real server that misbehaves as it is told."""

import asyncio
import json
import logging
import re
import traceback
from collections import Counter
from dataclasses import replace
from urllib.parse import quote

import pytest

from labeling.captions.answer import FIELDS, AnswerError, json_schema, parse_answer
from labeling.captions.backends import server as backend_module
from labeling.captions.backends.connection import safe_url
from labeling.captions.backends.protocol import CaptionError, Unanswered
from labeling.captions.backends.server import ServerBackend, only_model, retry_after_s
from labeling.captions.degenerate import degeneration, is_refusal
from labeling.captions.dialogue import Message, Reply, Request
from schemas.records import FailureCode, NullReason
from tests.labeling.captions.scripted_answers import ANSWERS
from tests.labeling.captions.scripted_server import CONNECTIONS, Script, ScriptedServer, always, first, mixed

KEY = "sk-proj-1234567890/abc+def"
JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\x01\x00\x02\x00\x03" + bytes(40)  # a frame header of 512 x 256 pixels
SCHEMA = json_schema(dict.fromkeys(FIELDS, "something"))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def request(number: int = 0, text: str = "Describe it in English.") -> Request:
    user = Message("user", (f"At 0.00 s, of clip {number:06x}:", JPEG, text))
    return Request((Message("system", ("You write captions.",)), user), temperature=0.2)


def backend(server: ScriptedServer, **fields) -> ServerBackend:
    return ServerBackend(**{"base_url": server.base_url, "model": "tiny", "backoff_s": 0.001, "timeout_s": 20, **fields})


def ask_all(asked: ServerBackend, requests: list[Request]) -> list[Reply | Exception]:
    """What came of requests that were all asked at once."""

    async def run():
        async with asked.open(SCHEMA) as ask:
            return await asyncio.gather(*map(ask, requests), return_exceptions=True)

    return asyncio.run(run())


def ask_in_turn(asked: ServerBackend, requests: list[Request]) -> list[Reply]:
    """What came of requests that were asked one after the other."""

    async def run():
        async with asked.open(SCHEMA) as ask:
            return [await ask(one) for one in requests]

    return asyncio.run(run())


def ask_one(script: Script, **fields) -> tuple[Reply | Exception, ScriptedServer]:
    with ScriptedServer(script) as server:
        return ask_all(backend(server, **fields), [request()])[0], server


def answers_to(reply: Reply, number: int) -> bool:
    return f"clip {number:06x}" in parse_answer(reply.text).caption_dense


def did(server: ScriptedServer) -> list[str]:
    return [line.did for line in sorted(server.lines, key=lambda line: line.number)]


def test_a_request_is_sent_as_the_api_has_it_and_its_answer_read():
    reply, server = ask_one(always("good"), max_tokens=77)
    body = server.asked[0].body
    system, user = body["messages"]
    assert system == {"role": "system", "content": "You write captions."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    assert user["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.2, 77)
    asked_for = body["response_format"]["json_schema"]
    assert asked_for["strict"] and asked_for["schema"]["required"] == list(FIELDS)
    assert "Length" not in json.dumps(asked_for)
    assert set(body) == {"model", "temperature", "max_tokens", "response_format", "messages"}
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"

    assert answers_to(reply, 0)
    assert degeneration(parse_answer(reply.text), "en") is None
    assert reply.tokens_in == len(server.asked[0].text) // 4 + 512 * 256 // 784
    assert reply.tokens_out == len(reply.text) // 4
    assert (reply.was_cut, reply.was_refused) == (False, False)
    assert server.lines[0].connected


def test_a_chinese_prompt_is_answered_in_chinese():
    with ScriptedServer(always("good")) as server:
        (reply,) = ask_all(
            backend(server),
            [request(7, "请用中文描述：写出主体、动作、地点、镜头与光线，不要猜测人名或原因，也不要重复。")],
        )
    assert answers_to(reply, 7)
    assert degeneration(parse_answer(reply.text), "zh") is None


@pytest.mark.parametrize(
    "trouble",
    ["408", "409", "429", "429=0", "429-date=0", "500", "503", "reset", "reset-after-headers", "truncated", "broken-json", "no-json"]
    + ["no-choices", "empty-choices", "no-message"],
)
def test_passing_trouble_is_tried_again(trouble):
    reply, server = ask_one(first(trouble, times=3))
    assert did(server) == [trouble] * 3 + ["good"]
    assert answers_to(reply, 0)


@pytest.mark.parametrize(
    ("trouble", "code", "message"),
    [
        ("429", FailureCode.UNAVAILABLE, "429: slow down"),
        ("503", FailureCode.UNAVAILABLE, "503: <html><body>no server is up"),
        ("reset", FailureCode.UNAVAILABLE, "no answer from http"),
        ("truncated", FailureCode.UNAVAILABLE, "no answer from http"),
        ("no-choices", FailureCode.UNAVAILABLE, "without a chat completion: the engine is asleep"),
        ("broken-json", FailureCode.UNAVAILABLE, "without a chat completion"),
        ("hang", FailureCode.TIMEOUT, "within 0.2 s"),
        ("drip", FailureCode.TIMEOUT, "within 0.2 s"),
    ],
)
def test_lasting_trouble_ends_after_all_tries(trouble, code, message):
    failure, server = ask_one(always(trouble), tries=3, timeout_s=0.2 if code is FailureCode.TIMEOUT else 20)
    assert isinstance(failure, Unanswered) and failure.code is code
    assert message in str(failure) and "(3 tries)" in str(failure) and "\n" not in str(failure)
    assert did(server) == [trouble] * 3


def test_the_code_is_that_of_the_last_try():
    failure, _ = ask_one(lambda asked: "hang" if asked.times < 2 else "500", tries=3, timeout_s=0.2)
    assert failure.code is FailureCode.UNAVAILABLE


def test_a_server_that_is_not_there(unused_url):
    (failure,) = ask_all(ServerBackend(unused_url, "tiny", tries=2, backoff_s=0.001), [request()])
    assert failure.code is FailureCode.UNAVAILABLE and "(2 tries)" in str(failure)


@pytest.fixture
def unused_url() -> str:
    with ScriptedServer(always("good")) as server:
        pass
    return server.base_url


@pytest.mark.parametrize(
    ("behavior", "message"),
    [("400", "maximum context length is 4096 tokens. Please reduce"), ("422", "body.messages: too many pictures")],
)
def test_a_refused_request_is_not_tried_again(behavior, message):
    failure, server = ask_one(always(behavior))
    assert isinstance(failure, Unanswered) and failure.code is FailureCode.REJECTED
    assert message in str(failure) and "\n" not in str(failure) and len(str(failure)) <= 300
    assert did(server) == [behavior]


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("401", r"401; \$OPENAI_API_KEY is set\): Incorrect API key provided: \[redacted\]"),
        ("403", r"403; \$OPENAI_API_KEY is set"),
        ("404", r"no model 'tiny' .*; it offers qwen, smol"),
        ("402", "wants to be paid first"),
        ("429-quota", "wants to be paid first"),
    ],
)
def test_what_no_request_would_mend_ends_the_job(behavior, message):
    with ScriptedServer(always(behavior), models=("qwen", "smol")) as server:
        (failure,) = ask_all(backend(server), [request()])
    assert isinstance(failure, CaptionError) and re.search(message, str(failure))
    assert did(server) == [behavior]


def test_a_wrong_path_says_so(unused_url):
    with ScriptedServer(always("good")) as server:
        (failure,) = ask_all(backend(server, base_url=server.base_url.removesuffix("/v1")), [request()])
    assert isinstance(failure, CaptionError) and "most end with /v1" in str(failure)


def test_waits_grow_and_heed_retry_after(monkeypatch):
    waits = []

    async def note(seconds):
        waits.append(seconds)

    monkeypatch.setattr(backend_module, "_sleep", note)
    with ScriptedServer(lambda asked: "429=7" if asked.times == 1 else "500") as server:
        ask_all(backend(server, backoff_s=0.5), [request()])
    assert len(waits) == 5 == len(server.lines) - 1
    assert waits[1] == 7.0
    assert all(0.5 <= wait <= 2**try_ for try_, wait in enumerate(waits) if try_ != 1)


def test_retry_after():
    assert retry_after_s(None, 0) is None
    assert retry_after_s("soon", 0) is None
    assert retry_after_s("nan", 0) is None
    assert retry_after_s("3", 0) == 3.0
    assert retry_after_s("-3", 0) == 0.0
    assert retry_after_s("9999", 0) == 120.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", 70) == 30.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40", 70) == 30.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", 1000) == 0.0


def test_answers_that_are_not_good_come_back_as_they_are():
    assert ask_one(always("cut"))[0].was_cut
    with pytest.raises(AnswerError, match="too long"):
        parse_answer(ask_one(always("cut"))[0].text, was_cut=True)
    assert is_refusal(ask_one(always("refusal"))[0].text)
    assert degeneration(parse_answer(ask_one(always("degenerate"))[0].text), "en") is NullReason.REPETITION
    assert degeneration(parse_answer(ask_one(always("wrong-language"))[0].text), "en") is NullReason.LANGUAGE
    for behavior in ("refusal-field", "content-filter"):
        reply, _ = ask_one(always(behavior))
        assert reply.was_refused and reply.text == ""


def test_every_way_of_a_wrong_schema_comes_up():
    with ScriptedServer(always("wrong-schema")) as server:
        replies = ask_all(backend(server), [request(number) for number in range(24)])
    problems = set()
    for reply in replies:
        with pytest.raises(AnswerError) as error:
            parse_answer(reply.text)
        problems.add(str(error.value).split(":")[0])
    assert problems == {"camera", "mood", "style", "action"}


def test_the_first_choice_is_taken_and_parts_are_joined():
    assert answers_to(ask_one(always("two-choices"))[0], 0)
    assert answers_to(ask_one(always("parts"))[0], 0)


@pytest.mark.parametrize("behavior", ["no-usage", "odd-usage"])
def test_tokens_that_are_not_told_are_none(behavior):
    reply, _ = ask_one(always(behavior))
    assert (reply.tokens_in, reply.tokens_out) == (None, None)


@pytest.mark.parametrize("times", ["twice", "twice-late"])
def test_an_answer_sent_twice_is_never_another_clips(times):
    with ScriptedServer(lambda asked: times if asked.number in (0, 3) else "good") as server:
        replies = ask_in_turn(backend(server, concurrency=1), [request(number) for number in range(8)])
    assert all(answers_to(reply, number) for number, reply in enumerate(replies))
    assert len({line.connection for line in server.lines}) == 3


def test_a_refusal_sent_twice_is_never_another_clips():
    with ScriptedServer(lambda asked: "error-twice=400" if asked.number == 0 else "good") as server:

        async def run():
            async with backend(server, concurrency=1).open(SCHEMA) as ask:
                with pytest.raises(Unanswered):
                    await ask(request(0))
                return [await ask(request(number)) for number in (1, 2, 3)]

        replies = asyncio.run(run())
    assert all(answers_to(reply, number) for number, reply in enumerate(replies, 1))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refusal_in_the_same_words_for_many_clips_is_one(concurrency):
    with ScriptedServer(always("400")) as server:

        async def run():
            async with backend(server, concurrency=concurrency, tries=2).open(SCHEMA) as ask:
                return await asyncio.gather(*(ask(request(number)) for number in range(24)), return_exceptions=True)

        refused = asyncio.run(run())
    assert {type(error) for error in refused} == {Unanswered} and {error.code for error in refused} == {FailureCode.REJECTED}


def test_a_server_without_json_schema_mode(caplog):
    with ScriptedServer(always("json-object-only"), latency_s=0.1) as server:
        replies = ask_all(backend(server, concurrency=8), [request(number) for number in range(12)])
    assert all(answers_to(reply, number) for number, reply in enumerate(replies))
    kinds = Counter(line.response_format for line in server.lines)
    assert kinds["json_object"] == 12
    assert 1 < kinds["json_schema"] <= 8  # those that were under way, then nobody
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{server.base_url} has no JSON-schema mode; the schema is asked for in the prompt only"
    ]


def test_a_server_without_any_response_format(caplog):
    with ScriptedServer(always("no-response-format")) as server:
        replies = ask_in_turn(backend(server, tries=1), [request(0), request(1)])
    assert all(answers_to(reply, number) for number, reply in enumerate(replies))
    assert [line.response_format for line in server.lines] == ["json_schema", "json_object", None, None]
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


def test_a_late_refusal_takes_nothing_back():
    with ScriptedServer(lambda asked: "late=no-response-format" if asked.number == 0 else "no-response-format") as server:
        ask_all(backend(server), [request(0), request(1)])
    assert [asked.body.get("response_format", {}).get("type") for asked in server.asked[-2:]] == [None, None]
    assert len(server.lines) <= 5


def test_a_server_that_wants_max_completion_tokens(caplog):
    with ScriptedServer(always("no-max-tokens")) as server:
        replies = ask_in_turn(backend(server, tries=1), [request(0), request(1)])
    assert all(answers_to(reply, number) for number, reply in enumerate(replies))
    assert [line.token_limit for line in server.lines] == ["max_tokens", "max_completion_tokens", "max_completion_tokens"]
    assert all(line.response_format == "json_schema" for line in server.lines)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_refusal_that_quotes_what_it_was_sent_changes_nothing():
    failure, server = ask_one(always("422"))
    assert failure.code is FailureCode.REJECTED
    assert [line.response_format for line in server.lines] == ["json_schema"]


def test_no_more_requests_at_once_than_allowed():
    with ScriptedServer(first("500"), latency_s=0.05) as server:
        ask_all(backend(server, concurrency=5), [request(number) for number in range(20)])
    assert 1 < max(line.in_flight for line in server.lines) <= 5
    assert len(server.lines) == 40


def test_a_few_connections_are_used_again_and_again():
    with ScriptedServer(always("good"), latency_s=0.01) as server:
        ask_all(backend(server, concurrency=4), [request(number) for number in range(40)])
    assert len({line.connection for line in server.lines}) == 4


def test_a_script_is_the_same_in_any_order_and_all_clips_get_through():
    requests = [request(number) for number in range(60)]
    done = []
    for order in (requests, requests[::-1]):
        with ScriptedServer(mixed(seed=3)) as server:
            outcomes = ask_all(backend(server, concurrency=8, tries=8), order)
        done.append({(line.fingerprint, line.times, line.did) for line in server.lines})
        rejected = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert {outcome.code for outcome in rejected} <= {FailureCode.REJECTED}
        for one, outcome in zip(order, outcomes, strict=True):
            marker = one.messages[1].parts[0].split("of ")[1].rstrip(":")
            assert isinstance(outcome, Exception) or "clip" not in outcome.text or marker in outcome.text
    # A repeated answer costs the request after it a try, whichever that is; all else is the same.
    kept = [{event for event in events if event[1] == 0} for events in done]
    assert kept[0] == kept[1]
    assert len({event[2] for event in kept[0]}) > 8


def test_the_log_file_has_every_request(tmp_path):
    with ScriptedServer(first("500"), log=tmp_path / "log") as server:
        ask_all(backend(server), [request()])
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [vars(line) for line in server.lines]
    assert [(line["did"], line["times"]) for line in lines] == [("500", 0), ("good", 1)]


def test_no_key_sends_none(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "")
    reply, server = ask_one(always("good"), key_variable="OTHER_KEY")
    assert answers_to(reply, 0)
    assert "authorization" not in server.asked[0].headers
    failure, _ = ask_one(always("401"), key_variable="OTHER_KEY")
    assert "$OTHER_KEY is not set" in str(failure)


@pytest.mark.parametrize("key", ["sk-ab\u00e9cdef", "sk-ab\ncdef", "sk-ab cdef"])
def test_a_key_that_no_header_takes(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(CaptionError, match="OPENAI_API_KEY") as error:
        ask_all(ServerBackend("http://127.0.0.1:1/v1", "tiny"), [])
    assert key not in str(error.value)


def test_a_redirect_is_not_followed():
    with ScriptedServer(always("good")) as other, ScriptedServer(always(f"redirect={other.base_url}/chat/completions?key={KEY}")) as server:
        (failure,) = ask_all(backend(server), [request()])
    assert isinstance(failure, CaptionError) and f"redirects to {other.base_url}/chat/completions," in str(failure)
    assert other.asked == []


PASSWORD = "p@ss:w/rd?"


@pytest.mark.parametrize("behavior", sorted({*ANSWERS, *CONNECTIONS} - {"error-twice", "late", "redirect", "429-date"}))
@pytest.mark.parametrize("with_password", [False, True])
def test_no_secret_gets_out(behavior, with_password, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(always(behavior)) as server:
        url = server.base_url.replace("//", f"//user1:{quote(PASSWORD, safe='')}@") if with_password else server.base_url
        asked = backend(server, base_url=url, tries=2, timeout_s=0.2 if behavior in ("hang", "drip") else 20)
        (outcome,) = ask_all(asked, [request()])
    seen = [repr(asked), repr(outcome), caplog.text, *capfd.readouterr()]
    while isinstance(outcome, BaseException):
        seen += [str(outcome), "".join(traceback.format_exception(outcome)), repr(vars(outcome))]
        assert outcome.__cause__ is None and not isinstance(outcome.__context__, (OSError, RuntimeError))
        outcome = outcome.__context__
    sent = server.asked[0].headers["authorization"]
    secrets = [PASSWORD, quote(PASSWORD, safe=""), sent.removeprefix("Basic ")] if with_password else [KEY, KEY[:12], quote(KEY, safe="")]
    assert sent.startswith("Basic " if with_password else f"Bearer {KEY}")
    assert not [secret for secret in secrets if any(secret in text for text in seen)]
    assert "httpcore2" in caplog.text  # the log was there to leak into


def test_a_url_for_show():
    assert safe_url("https://me:se/cr?et@h.org:8000/v1?key=1#x") == "https://h.org:8000/v1"
    assert safe_url(" http://h.org/v1 ") == "http://h.org/v1"
    assert safe_url("http://me:a://b@h.org/v1") == "http://h.org/v1"
    assert safe_url("me:secret@h.org/v1") == "h.org/v1"


@pytest.mark.parametrize(
    "url", ["h.org/v1", "ftp://h.org/v1", "http://", "http://h.org:x/v1", "http://h.org/v1?key=hidden", "file:///hidden@x", "http://h o/v1"]
)
def test_a_url_that_cannot_be_used(url):
    with pytest.raises(CaptionError, match="cannot use the base URL") as error:
        ask_all(ServerBackend(url, "tiny"), [])
    assert "hidden" not in str(error.value)


def test_the_only_model(unused_url):
    with ScriptedServer(always("good"), models=("smol",)) as server:
        assert only_model(server.base_url) == "smol"
    with (
        ScriptedServer(always("good"), models=tuple(f"m{k}" for k in range(25))) as server,
        pytest.raises(CaptionError, match="offers m0, m1, .*m19 and 5 more: say which with --model"),
    ):
        only_model(server.base_url)
    with ScriptedServer(always("good"), models=()) as server, pytest.raises(CaptionError, match="offers no model"):
        only_model(server.base_url)
    with pytest.raises(CaptionError, match="no answer from http"):
        only_model(unused_url)
    with ScriptedServer(always("good")) as server, pytest.raises(CaptionError, match="does not list its models .*404"):
        only_model(server.base_url + "/wrong")


def test_a_backend_is_its_configuration():
    one = ServerBackend("http://h.org/v1", "tiny")
    assert one == replace(one) and hash(one) == hash(replace(one))
