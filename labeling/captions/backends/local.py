"""A vision-language model in this process: a checkpoint in a folder, run by transformers, its answers held to the schema by xgrammar."""

import asyncio
import hashlib
import io
import re
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from labeling.captions.backends.grammar import Constraint, constraint
from labeling.captions.backends.protocol import Ask, CaptionError, Unanswered
from labeling.captions.dialogue import Message, Reply, Request
from schemas.records import FailureCode

_GREEDY_BELOW = 0.01  # temperature: so near to 0 that sampling would only add rounding
_PIECES, _PIECE_BYTES = 256, 16384  # of each weight file, that go into the model's name
_SHOWN = 200  # characters of another's message in ours
_Conversation = list[dict[str, Any]]


@dataclass(frozen=True)
class LocalBackend:
    """The model in `folder`: its config, safetensors weights, processor and chat template. Nothing is downloaded, no code of it is run.

    `batch_size` requests are answered at once, each with at most `max_tokens` tokens. `device` is auto (CUDA if there is one), cpu or cuda;
    weights are bfloat16 on CUDA and float32 on the CPU.
    """

    folder: str
    batch_size: int = 8
    max_tokens: int = 1024
    device: str = "auto"

    @cached_property
    def model(self) -> str:
        """The folder's name and 8 hex digits of its checkpoint. Raises CaptionError."""
        return checkpoint_name(Path(self.folder))

    @property
    def concurrency(self) -> int:
        """Requests worth having under way: one batch in the model and one waiting."""
        return 2 * self.batch_size

    @asynccontextmanager
    async def open(self, schema: dict[str, Any]) -> AsyncIterator[Ask]:
        """Load the model; what is still unanswered when the context is left ends with CaptionError. Raises CaptionError."""
        closing = threading.Event()
        thread = ThreadPoolExecutor(1, "captioner")  # the model is touched by this thread only
        try:
            model = await asyncio.get_running_loop().run_in_executor(thread, _load, self, schema, closing)
            queue = _Queue(self.batch_size)
            worker = asyncio.create_task(queue.run(thread, model))
            del model  # the worker alone holds it
            try:
                yield queue.ask
            finally:
                closing.set()
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)
        finally:
            closing.set()
            await asyncio.to_thread(thread.shutdown)
            await asyncio.to_thread(_free_memory)


def checkpoint_name(folder: Path) -> str:
    """The folder's name, "@" and 8 hex digits of a SHA-256 over the config and the weight files' names, sizes and pieces of content.

    Fine-tunes of one model differ in nothing but the weights, hence the pieces; a checkpoint is too large to be read as a whole for a name.
    Raises CaptionError.
    """
    digest = hashlib.sha256()
    config, weights = _files(folder)
    try:
        digest.update(config.read_bytes())
        for path in weights:
            size = path.stat().st_size
            digest.update(f"\0{path.name}\0{size}\0".encode())
            with path.open("rb") as handle:
                for start in range(0, size, max(_PIECE_BYTES, size // _PIECES)):
                    handle.seek(start)
                    digest.update(handle.read(_PIECE_BYTES))
    except OSError as error:
        raise CaptionError(f"{folder}: the model cannot be read ({_line(error)})") from error
    return f"{folder.resolve().name}@{digest.hexdigest()[:8]}"


def _files(folder: Path) -> tuple[Path, list[Path]]:
    """The config and the weight files. Raises CaptionError."""
    if not folder.is_dir():
        raise CaptionError(f"{folder}: there is no such folder; give the folder of a downloaded model")
    config = folder / "config.json"
    if not config.is_file():
        raise CaptionError(f"{folder}: there is no config.json; give the folder of a whole model as it is published for transformers")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CaptionError(f"{folder}: there are no *.safetensors; take the model's safetensors weights (pickled ones are not loaded)")
    return config, weights


class _Queue:
    """Requests on their way to the model. While it answers a batch, the next one gathers here."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._arrived = asyncio.Event()
        self._end: CaptionError | None = None

    async def ask(self, request: Request) -> Reply:
        if self._end is not None:
            raise self._end
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        self._arrived.set()
        return await answer

    async def run(self, thread: ThreadPoolExecutor, model: "_Model") -> None:
        """Answer batch after batch, until cancelled or until the model can answer no more."""
        loop = asyncio.get_running_loop()
        batch: list[tuple[Request, asyncio.Future[Reply]]] = []
        end = CaptionError("the model was closed before it answered")
        try:
            while True:
                await self._arrived.wait()
                if not (batch := self._take()):
                    self._arrived.clear()
                    continue
                answers = await loop.run_in_executor(thread, model.answer, [request for request, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # who asked was cancelled
                        continue
                    if isinstance(answer, Reply):
                        future.set_result(answer)
                    else:
                        future.set_exception(answer)
        except Exception as error:
            end = error if isinstance(error, CaptionError) else CaptionError(f"the model answers no more: {_line(error)}")
        finally:
            self._end = end
            for _, future in (*batch, *self._waiting):
                if not future.done():
                    future.set_exception(end)
            self._waiting.clear()

    def _take(self) -> list[tuple[Request, asyncio.Future[Reply]]]:
        """The longest waiting requests that go with the very first one: one batch is sampled at one temperature."""
        self._waiting = [one for one in self._waiting if not one[1].done()]
        temperature = self._waiting[0][0].temperature if self._waiting else 0.0
        batch = [one for one in self._waiting if one[0].temperature == temperature][: self._batch_size]
        taken = set(map(id, batch))
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return batch


@dataclass(frozen=True)
class _Model:
    """A loaded model. To be used by one thread."""

    network: Any
    processor: Any
    constraint: Constraint
    ends: frozenset[int]  # tokens that end an answer
    silent: list[int] | None  # other special tokens: the grammar would take them for their names, and they are not decoded
    control: re.Pattern[str]
    max_tokens: int
    closing: threading.Event

    def answer(self, requests: Sequence[Request]) -> list[Reply | Unanswered]:
        """Answers of one batch, all at the first one's temperature. Raises CaptionError where the device is lost."""
        answers: dict[int, Reply | Unanswered] = {}
        conversations: dict[int, _Conversation] = {}
        for index, request in enumerate(requests):
            try:
                conversations[index] = self._conversation(request.messages)
            except Exception as error:
                answers[index] = _unanswered(error)
        replies = self._answer(list(conversations.values()), requests[0].temperature)
        answers |= dict(zip(conversations, replies, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _answer(self, conversations: list[_Conversation], temperature: float) -> list[Reply | Unanswered]:
        """Answers; a batch that fails is halved if memory ran out, else taken apart, so that what is wrong with one costs no other."""
        import torch

        if not conversations:
            return []
        try:
            return list(self._generate(conversations, temperature))
        except torch.AcceleratorError as error:
            raise CaptionError(f"the device is lost ({_line(error)}); run again to go on") from error
        except Exception as error:
            problem = _unanswered(error)
            part = (len(conversations) + 1) // 2 if isinstance(error, torch.OutOfMemoryError) else 1
        # Only here the failed batch is out of memory: its error held its tensors.
        if len(conversations) == 1:
            return [problem]
        _free_memory()
        parts = (conversations[start : start + part] for start in range(0, len(conversations), part))
        return [answer for one in parts for answer in self._answer(one, temperature)]

    def _generate(self, conversations: list[_Conversation], temperature: float) -> list[Reply]:
        import torch

        began = time.perf_counter()
        inputs = _encode(self.processor, conversations).to(self.network.device, dtype=self.network.dtype)
        sampling = {"do_sample": True, "temperature": temperature}
        if temperature < _GREEDY_BELOW:
            sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        with torch.inference_mode():
            tokens = self.network.generate(
                **inputs,
                **sampling,
                max_new_tokens=self.max_tokens,
                eos_token_id=sorted(self.ends),
                pad_token_id=self.processor.tokenizer.pad_token_id,
                suppress_tokens=self.silent,
                logits_processor=[self.constraint.processor()],
                stopping_criteria=[self._is_closing],
            )
        seconds = time.perf_counter() - began
        prompt = inputs["input_ids"].shape[1]
        lengths = inputs["attention_mask"].sum(1).tolist()
        return [self._reply(row[prompt:], length, seconds) for row, length in zip(tokens.tolist(), lengths, strict=True)]

    def _reply(self, tokens: list[int], tokens_in: int, seconds: float) -> Reply:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        said = tokens if end is None else tokens[: end + 1]  # beyond the end there is padding, up to the longest answer of the batch
        text = self.processor.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(text, int(tokens_in), len(said), seconds, was_cut=end is None)

    def _is_closing(self, tokens: Any, _scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((tokens.shape[0],), self.closing.is_set(), device=tokens.device)

    def _conversation(self, messages: Sequence[Message]) -> _Conversation:
        return [{"role": message.role, "content": [self._part(part) for part in message.parts]} for message in messages]

    def _part(self, part: str | bytes) -> dict[str, Any]:
        from PIL import Image, UnidentifiedImageError

        if isinstance(part, bytes):
            try:
                return {"type": "image", "image": Image.open(io.BytesIO(part), formats=["JPEG"]).convert("RGB")}
            except UnidentifiedImageError as error:  # its message is an address in memory
                raise ValueError("a picture is no JPEG") from error
        # Text on screen or a wrong answer may hold a control token such as "<image>": a blank in it makes it plain text.
        return {"type": "text", "text": self.control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", part)}


def _encode(processor: Any, conversations: list[_Conversation]) -> Any:
    """Inputs of the network, every prompt ending where the answer begins."""
    how = {"padding": True, "padding_side": "left"}
    return processor.apply_chat_template(
        conversations, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", processor_kwargs=how
    )


def _load(backend: LocalBackend, schema: dict[str, Any], closing: threading.Event) -> _Model:
    """Raises CaptionError."""
    folder = Path(backend.folder)
    _files(folder)
    try:
        import torch
        import transformers
        import xgrammar  # noqa: F401
    except ImportError as error:
        raise CaptionError(f"{folder}: a local model needs more packages ({_line(error)}); pip install 'reelmill[vlm]'") from error
    if backend.device not in ("auto", "cpu", "cuda"):
        raise CaptionError(f"{folder}: there is no device {backend.device!r}; use auto, cpu or cuda")
    device = backend.device if backend.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise CaptionError(f"{folder}: the model is to run on CUDA and there is none here; use the device cpu or auto")
    transformers.utils.logging.disable_progress_bar()
    processor = _load_processor(folder)
    network = _load_network(folder, torch.bfloat16 if device == "cuda" else torch.float32, device)
    ends = network.generation_config.eos_token_id
    ends = processor.tokenizer.eos_token_id if ends is None else ends
    ends = frozenset([ends] if isinstance(ends, int) else ends)
    try:
        width = network.get_output_embeddings().weight.shape[0]  # the vocabulary of the head, which may be padded
        held = constraint(schema, processor.tokenizer, width, sorted(ends))
    except Exception as error:
        raise CaptionError(f"{folder}: the model's answers cannot be held to a schema ({_line(error)}); use another model") from error
    silent = [number for number, token in processor.tokenizer.added_tokens_decoder.items() if token.special and number not in ends] or None
    return _Model(network, processor, held, ends, silent, _control(processor), backend.max_tokens, closing)


def _load_processor(folder: Path) -> Any:
    from PIL import Image
    from transformers import AutoProcessor

    fix = "take all files of the model as it is published"
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CaptionError(f"{folder}: the model's processor cannot be loaded ({_line(error)}); {fix}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise CaptionError(f"{folder}: the model has no processor of pictures; {fix}, or a model that reads pictures")
    if processor.chat_template is None:
        raise CaptionError(f"{folder}: the model has no chat template; take its instruction-tuned version, or {fix}")
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    text, picture = {"type": "text", "text": "A"}, {"type": "image", "image": Image.new("RGB", (64, 64))}
    turns = (("system", [text]), ("user", [picture, text]), ("assistant", [text]), ("user", [text]))
    try:
        _encode(processor, [[{"role": role, "content": content} for role, content in turns]])
    except Exception as error:
        raise CaptionError(f"{folder}: the model cannot be asked about a picture ({_line(error)}); use another model") from error
    return processor


def _load_network(folder: Path, dtype: Any, device: str) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
    except Exception as error:
        raise CaptionError(f"{folder}: config.json is not that of a model known to transformers ({_line(error)}); update it") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CaptionError(f"{folder}: a {config.model_type} does not answer about pictures; use a model such as Qwen2.5-VL or SmolVLM")
    try:
        network, loaded = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **local
        )
        if missing := sorted(loaded["missing_keys"]):  # they would be left random, with no more than a warning
            raise CaptionError(f"{folder}: {len(missing)} weights are missing, {missing[0]} first; take all files of the model")
        return network.to(device).eval()
    except CaptionError:
        raise
    except Exception as error:
        raise CaptionError(f"{folder}: the model cannot be loaded ({_line(error)}); check its files and the memory of {device}") from error


def _control(processor: Any) -> re.Pattern[str]:
    """Matches the tokens that steer a model, where they stand in a text."""
    tokens = {str(token) for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= {str(getattr(processor, name)) for name in ("image_token", "video_token") if getattr(processor, name, None)}
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if len(token) > 1) or "(?!)")


def _free_memory() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _unanswered(error: Exception) -> Unanswered:
    return Unanswered(FailureCode.INTERNAL, _line(error))


def _line(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}"
