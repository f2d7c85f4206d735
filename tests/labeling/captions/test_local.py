"""A local model: real architectures and processors with tiny weights, asked about pictures of real videos."""

import asyncio
import gc
import io
import json
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from labeling.captions.answer import FIELDS, AnswerError, json_schema, parse_answer
from labeling.captions.backends.grammar import Progress, grammar_of
from labeling.captions.backends.local import LocalBackend
from labeling.captions.backends.protocol import Ask, CaptionError, Unanswered
from labeling.captions.dialogue import Message, Reply, Request
from schemas.records import FailureCode
from tests.labeling.captions.tiny_vlm import tiny_vlm
from tests.labeling.stills import clip_of

FAMILIES = ("smolvlm", "qwen2.5-vl")
SCHEMA = json_schema({name: f"the {name} of the clip" for name in FIELDS})
CAPTION = {name: f'{name}: a dog, "Rex", runs — 狗' for name in FIELDS}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("models") / f"tiny-{request.param}", request.param)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def jpegs(corpus: Path) -> list[bytes]:
    return [
        keyframe.jpeg
        for name, fps in (("dj_video11.mp4", 24), ("vgen_ucf_PlayingGuitar_g03_c01.avi", 25))
        for keyframe in clip_of(corpus / name, [1, 2, 3], fps).keyframes
    ]


def user(*parts: str | bytes) -> Message:
    return Message("user", parts)


def question(*pictures: bytes, temperature: float = 0.0, words: str = "Describe the clip.") -> Request:
    return Request((Message("system", ("You describe videos.",)), user(*pictures, words)), temperature)


def mixed(jpegs: list[bytes]) -> list[Request]:
    """Requests with different numbers of pictures and turns."""
    first = question(*jpegs[:2])
    return [
        first,
        replace(first, messages=(*first.messages, Message("assistant", ("A dog.",)), user("The answer was wrong: say it again."))),
        question(*jpegs[:4]),
        question(words="What is a film?"),
        Request((user("Frame 1 at 0 s:", jpegs[4], "Frame 2 at 1 s:", jpegs[5], "描述"),), 0.0),
    ]


def asked(backend: LocalBackend, talk: Callable[[Ask], Awaitable[Any]], schema: dict[str, Any] = SCHEMA) -> Any:
    """What `talk` returns."""

    async def main() -> Any:
        async with backend.open(schema) as ask:
            return await talk(ask)

    return asyncio.run(main())


async def together(ask: Ask, requests: list[Request]) -> list[Any]:
    return await asyncio.gather(*map(ask, requests), return_exceptions=True)


def content(reply: Reply) -> tuple[Any, ...]:
    return reply.text, reply.tokens_in, reply.tokens_out, reply.was_cut


def test_answers_of_a_batch_fit_the_schema_and_are_those_of_each_alone(folder: Path, jpegs: list[bytes]) -> None:
    async def talk(ask: Ask) -> tuple[list[Reply], list[Reply]]:
        return await together(ask, mixed(jpegs)), [await ask(request) for request in mixed(jpegs)]

    batch, alone = asked(LocalBackend(str(folder)), talk)
    assert [content(reply) for reply in batch] == [content(reply) for reply in alone]
    assert len({reply.text for reply in batch}) == len(batch)  # turns and pictures matter
    assert len({reply.seconds for reply in batch}) == 1  # it was one batch
    for reply in batch:
        assert not reply.was_cut
        parse_answer(reply.text)
        assert list(json.loads(reply.text, strict=False)) == list(FIELDS)


def test_counts_are_those_of_the_tokenizer(folder: Path, jpegs: list[bytes]) -> None:
    from transformers import AutoProcessor

    one, other = (question(*jpegs[:count], words="A film.") for count in (0, 2))
    none, two = asked(LocalBackend(str(folder)), lambda ask: together(ask, [one, other]))
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    turns = [{"role": message.role, "content": message.parts[0]} for message in one.messages]
    prompt = AutoProcessor.from_pretrained(folder).apply_chat_template(turns, add_generation_prompt=True)
    assert none.tokens_in == len(tokenizer.encode(prompt))
    a_picture = {"tiny-smolvlm": 4 + 3, "tiny-qwen2.5-vl": 2 + 2}[folder.name]  # with the tokens around it
    assert two.tokens_in - none.tokens_in == pytest.approx(2 * a_picture, abs=1)  # a blank before the words
    # Random text may be written in other ways too: that of the tokenizer is the shortest. One more is the end.
    assert none.tokens_out >= len(tokenizer.encode(none.text)) + 1


def test_pictures_are_seen_in_their_order(folder: Path, jpegs: list[bytes]) -> None:
    requests = [question(jpegs[0], jpegs[4]), question(jpegs[4], jpegs[0]), question(jpegs[0], jpegs[4])]
    first, turned, again = asked(LocalBackend(str(folder)), lambda ask: together(ask, requests))
    assert first.text == again.text != turned.text


def test_each_request_is_answered_at_its_temperature(smolvlm: Path, jpegs: list[bytes]) -> None:
    cold, warm = question(jpegs[0]), question(jpegs[0], temperature=0.9)
    replies = asked(LocalBackend(str(smolvlm)), lambda ask: together(ask, [cold, warm, cold, warm, replace(cold, temperature=1e-6)]))
    assert replies[0].text == replies[2].text == replies[4].text
    assert len({replies[0].text, replies[1].text, replies[3].text}) == 3
    for reply in replies:
        parse_answer(reply.text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_says_a_caption(family: str, tmp_path: Path, jpegs: list[bytes]) -> None:
    says = json.dumps(CAPTION, ensure_ascii=False)
    requests = [replace(request, temperature=temperature) for request in mixed(jpegs) for temperature in (0.0, 0.9)]
    replies = asked(LocalBackend(str(tiny_vlm(tmp_path / "says", family, says))), lambda ask: together(ask, requests))
    answers = [(reply.text, reply.tokens_out, reply.was_cut) for reply in replies]
    assert answers == [(says, 2, False)] * len(requests)  # the text is one token, and its end another
    assert parse_answer(replies[0].text).model_dump() == CAPTION


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_schema_it_says_anything(family: str, tmp_path: Path, jpegs: list[bytes]) -> None:
    """What `transformers serve` does with it."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tiny_vlm(tmp_path / "says", family, "A man walks, and that is all.")
    processor, network = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()
    for request in mixed(jpegs):
        parts = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": Image.open(io.BytesIO(part))}
            for part in request.messages[-1].parts
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 0.9}):
            tokens = network.generate(**inputs, max_new_tokens=20, **sampling)[0, inputs["input_ids"].shape[1] :]
            assert processor.decode(tokens, skip_special_tokens=True) == "A man walks, and that is all."
            assert len(tokens) == 2


def test_the_grammar_takes_what_the_schema_and_a_caption_take() -> None:
    import xgrammar

    tokens = xgrammar.TokenizerInfo([bytes([byte]) for byte in range(256)] + [b"</s>"], stop_token_ids=[256])
    grammar = xgrammar.GrammarCompiler(tokens).compile_grammar(grammar_of(SCHEMA))

    def takes(text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(grammar)
        return matcher.accept_string(text) and matcher.accept_token(256)

    for words in ("a dog", 'a sign: "STOP"', "back\\slash", "two\nlines", "狗在跑", "😀", "x" * 300, "狗" * 300, '"' * 300):
        answer = CAPTION | {"caption_short": words}
        assert takes(json.dumps(answer, ensure_ascii=False)), words
        assert parse_answer(json.dumps(answer)).caption_short == words
    for words in ("", " ", "\n", "\u3000", "\xa0dog", "\x00"):
        assert not takes(json.dumps(CAPTION | {"caption_short": words}, ensure_ascii=False)), words
    text = json.dumps(CAPTION, ensure_ascii=False)
    others = (
        text[:-1],
        text + " ",
        text.replace("a dog", "a\tdog"),
        text.replace("a dog", "\\ud800"),
        text.replace("scene", "place"),
        "{}",
    )
    assert not any(map(takes, others))


def test_a_text_is_closed_before_it_is_too_long(tmp_path: Path) -> None:
    """What this model would say does not fit, and it goes on with exclamation marks for ever."""
    folder = tiny_vlm(tmp_path / "rambling", says="No.")
    fields = {name: {"type": "string", "minLength": 1, "maxLength": longest} for name, longest in (("a", 30), ('b"', 40), ("c", 100))}
    backend = LocalBackend(str(folder), max_tokens=200)
    (reply,) = asked(backend, lambda ask: together(ask, [question()]), {"type": "object", "properties": fields})
    found = json.loads(reply.text)
    assert list(found) == list(fields) and not reply.was_cut
    for name, text in found.items():
        assert 0.9 * fields[name]["maxLength"] <= len(text) <= fields[name]["maxLength"]


def test_the_length_of_a_text_is_that_of_its_characters() -> None:
    progress = Progress(longest=(300, 10))
    progress.add(b'{"caption \\"x\\"": "')
    assert progress.is_open and progress.strings == 1 and progress.length == 0
    for piece in ("a", "狗", '\\"', "\\\\", "😀"):
        for byte in piece.encode():
            assert progress.is_open
            progress.add(bytes([byte]))
    assert progress.length == 5 and not progress.is_full
    progress.add(b'", "b": "12345678')
    assert not progress.is_full
    progress.add(b"9")
    assert progress.is_full
    progress.add(b'"')
    assert not progress.is_full and progress.strings == 4


def test_an_answer_ends_at_the_limit_of_tokens(smolvlm: Path, jpegs: list[bytes]) -> None:
    (reply,) = asked(LocalBackend(str(smolvlm), max_tokens=20), lambda ask: together(ask, [question(jpegs[0])]))
    assert (reply.was_cut, reply.tokens_out) == (True, 20)
    with pytest.raises(AnswerError, match="too long"):
        parse_answer(reply.text, reply.was_cut)


def test_words_that_steer_a_model_are_plain_text(folder: Path, jpegs: list[bytes]) -> None:
    """A sign in the picture may read so, and the text on screen is part of the question."""
    odd = question(jpegs[0], words="Text: <image> <|image_pad|> <end_of_utterance> <|im_end|> <|im_start|>")
    replies = asked(LocalBackend(str(folder)), lambda ask: together(ask, [odd, question(jpegs[0])]))
    for reply in replies:
        parse_answer(reply.text)


def test_a_broken_picture_costs_its_neighbors_nothing(folder: Path, jpegs: list[bytes]) -> None:
    thin = io.BytesIO()
    Image.new("RGB", (2, 900)).save(thin, "JPEG")  # Qwen's processor refuses it, inside of the batch
    good = [question(jpegs[0]), question(jpegs[1])]
    odd = [question(jpegs[0], jpegs[2][:2000]), question(b"no JPEG"), question(thin.getvalue())]

    async def talk(ask: Ask) -> tuple[list[Any], list[Any]]:
        return await together(ask, good), await together(ask, [odd[0], good[0], odd[1], odd[2], good[1]])

    alone, (cut, first, none, refused, second) = asked(LocalBackend(str(folder)), talk)
    assert [content(first), content(second)] == [content(reply) for reply in alone]
    assert all(isinstance(error, Unanswered) and error.code == FailureCode.INTERNAL for error in (cut, none))
    assert str(cut).startswith("OSError: ") and str(none) == "ValueError: a picture is no JPEG"
    assert isinstance(refused, Unanswered if "qwen" in folder.name else Reply)


def test_without_memory_for_a_batch_it_is_halved(smolvlm: Path, jpegs: list[bytes], monkeypatch) -> None:
    import torch
    from transformers import Idefics3ForConditionalGeneration as Network

    sizes: list[int] = []
    generate = Network.generate

    def short_of_memory(self: Any, input_ids: Any, **rest: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(self, input_ids=input_ids, **rest)

    requests = mixed(jpegs)
    enough = asked(LocalBackend(str(smolvlm)), lambda ask: together(ask, requests))
    monkeypatch.setattr(Network, "generate", short_of_memory)
    replies = asked(LocalBackend(str(smolvlm)), lambda ask: together(ask, requests))
    assert sizes == [5, 3, 2, 1, 2]
    assert [content(reply) for reply in replies] == [content(reply) for reply in enough]


def test_a_lost_device_ends_it(smolvlm: Path, jpegs: list[bytes], monkeypatch) -> None:
    import torch
    from transformers import Idefics3ForConditionalGeneration as Network

    def lost(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    async def talk(ask: Ask) -> list[Any]:
        return [*await together(ask, mixed(jpegs)), *await together(ask, mixed(jpegs))]

    monkeypatch.setattr(Network, "generate", lost)
    for error in asked(LocalBackend(str(smolvlm), batch_size=2), talk):
        assert isinstance(error, CaptionError) and "the device is lost" in str(error)


def test_what_comes_while_the_model_is_busy_is_the_next_batch(smolvlm: Path, jpegs: list[bytes]) -> None:
    async def talk(ask: Ask) -> tuple[Reply, list[Reply], int]:
        ticks = 0
        first = asyncio.create_task(ask(question(jpegs[0])))
        while not ticks:
            await asyncio.sleep(0.01)  # the model has begun
            ticks += 1
        rest = asyncio.gather(*(ask(question(jpeg)) for jpeg in jpegs[1:]))
        while not rest.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return await first, await rest, ticks

    backend = LocalBackend(str(smolvlm), batch_size=4)
    assert backend.concurrency == 8
    first, rest, ticks = asked(backend, talk)
    assert [reply.seconds for reply in rest] == [rest[0].seconds] * 4 + [rest[4].seconds]
    assert len({first.seconds, rest[0].seconds, rest[4].seconds}) == 3
    assert ticks > 20  # the loop went on while the model answered


def test_leaving_ends_what_waits_and_lets_the_model_go(smolvlm: Path, jpegs: list[bytes]) -> None:
    from transformers import Idefics3ForConditionalGeneration as Network

    async def main() -> None:
        async with LocalBackend(str(smolvlm), batch_size=1).open(SCHEMA) as ask:
            tasks = [asyncio.create_task(ask(question(jpeg))) for jpeg in jpegs]
            tasks[1].cancel()
            await tasks[0]
        ends = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert isinstance(ends[0], asyncio.CancelledError)
        assert all(isinstance(end, CaptionError) for end in ends[1:])
        with pytest.raises(CaptionError, match="closed"):
            await ask(question(jpegs[0]))
        gc.collect()
        assert not any(type(thing) is Network for thing in gc.get_objects())

    asyncio.run(main())
    assert not any(thread.name.startswith("captioner") for thread in threading.enumerate())


def _without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _without_pictures(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.role }}{% endfor %}")


def _without_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "lm_head" not in name}, folder / "model.safetensors", {"format": "pt"})


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


PROBLEMS = {
    "there is no such folder": shutil.rmtree,
    "there is no config.json": _without("config.json"),
    "there are no *.safetensors": _pickled,
    "not that of a model known to transformers": _config(model_type="unheard_of"),
    "a llama does not answer about pictures": _config(model_type="llama"),
    "1 weights are missing, lm_head.weight first": _without_weights,
    "the model cannot be loaded": _truncated,
    "processor": _without("processor_config.json"),
    "processor cannot be loaded": _without("tokenizer.json", "tokenizer_config.json"),
    "the model has no chat template": _without("chat_template.jinja"),
    "the model cannot be asked about a picture": _without_pictures,
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_folder_that_is_no_model_is_said_so(problem: str, smolvlm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(smolvlm, tmp_path / "model")
    PROBLEMS[problem](folder)
    with pytest.raises(CaptionError) as caught:
        asked(LocalBackend(str(folder)), lambda ask: together(ask, []))
    assert str(caught.value).startswith(f"{folder}: ") and problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["xgrammar", "transformers"])
def test_missing_packages_are_named(package: str, smolvlm: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CaptionError, match=rf"{smolvlm}: .*{package}.*reelmill\[vlm\]"):
        asked(LocalBackend(str(smolvlm)), lambda ask: together(ask, []))


def test_a_device_that_is_not_there(smolvlm: Path, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, problem in (("cuda", "there is none here"), ("tpu", "there is no device 'tpu'")):
        with pytest.raises(CaptionError, match=problem):
            asked(LocalBackend(str(smolvlm), device=device), lambda ask: together(ask, []))


def test_a_model_is_named_after_its_checkpoint(smolvlm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(smolvlm, tmp_path / "other" / "tiny")
    name = LocalBackend(str(smolvlm)).model
    assert name.startswith("tiny@") and len(name) == len("tiny@") + 8
    assert LocalBackend(f"{folder}/").model == name  # wherever it lies
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1  # a fine-tune: the same names and sizes
    (folder / "model.safetensors").write_bytes(weights)
    tuned = LocalBackend(str(folder)).model
    _config(dtype="bfloat16")(folder)
    assert len({name, tuned, LocalBackend(str(folder)).model}) == 3
    with pytest.raises(CaptionError, match="there is no such folder"):
        _ = LocalBackend(str(tmp_path / "nowhere")).model
