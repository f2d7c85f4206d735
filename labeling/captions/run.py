"""Drives a captioner over the clips that lack a caption: as many requests at once as the backend takes, every answer kept as it comes."""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curation.storage import Dataset
from labeling.captions.answer import FIELDS
from labeling.captions.backends.protocol import Ask, Backend, CaptionError, Unanswered
from labeling.captions.camera import camera_agrees
from labeling.captions.degenerate import language_identifier
from labeling.captions.dialogue import Answered, Question, Reply, Request, advance
from labeling.captions.journal import Entry, Journal
from labeling.captions.ledger import Captioner, Pending, PendingClip, answer_line, end_line, fold, fold_all
from labeling.captions.pictures import Budget, pictures
from labeling.captions.prompt import FACT_TAGS, Prompt
from labeling.captions.spending import Limits, Prices, Spending, Usage
from labeling.tagger import ClipView
from labeling.views import clip_views
from schemas.records import RETRYABLE, CaptionRecord, Failure, FailureCode

_PROMPT_TOKENS = 1000  # about what a prompt takes beside its pictures
_GIVE_UP_AFTER = 16  # clips in a row without an answer: then it is the server and not the clips


@dataclass(frozen=True)
class Job:
    """How captions are made: by whom, with which prompt, of how many pictures, at what price."""

    name: str  # folder below captions/
    backend: Backend
    prompt: Prompt
    budget: Budget
    temperatures: tuple[float, float]  # of the first try, and of the one after a degenerate answer
    prices: Prices | None
    limits: Limits
    max_tokens: int  # longest answer

    @property
    def captioner(self) -> Captioner:
        return Captioner(self.name, self.backend.model, self.prompt.version, self.budget)


@dataclass(frozen=True)
class _Item:
    """A clip on its way through a run."""

    shard: str
    pending: PendingClip
    view: ClipView
    question: Question | None  # None: there is nothing to show, and `problem` says why
    problem: str = ""


class CaptionRun:
    """One run over `pending`. Iterating does the work and gives the clip_id of each clip as it is done; totals are there afterwards.

    Raises CaptionError where it cannot go on. Whatever way it ends, answers that came are in the dataset or in its journal.
    """

    def __init__(self, dataset: Dataset, job: Job, pending: Pending):
        self._dataset, self._job, self._captioner, self._pending = dataset, job, job.captioner, pending
        self.spending = Spending(job.limits, job.prices, (job.budget.tokens + _PROMPT_TOKENS, job.max_tokens))
        self.failures: Counter[str] = Counter()
        self.null_reasons: Counter[str] = Counter()
        self.captioned = 0  # clips with a row, be it null
        self.stopped_at_limit = False

    def outcome(self) -> dict[str, Any]:
        """The totals, for the record of the run."""
        spent = self.spending
        return {
            "captioned_clips": self.captioned,
            "caption_failures": dict(self.failures),
            "null_reasons": dict(self.null_reasons),
            "requests": spent.requests,
            "tokens_in": spent.tokens_in,
            "tokens_out": spent.tokens_out,
            "cost": spent.cost,
            "stopped_at_limit": self.stopped_at_limit,
            "next_clip_tokens": spent.next_clip_tokens,
        }

    def __iter__(self) -> Iterator[str]:
        done: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                asyncio.run(self._main(done))
                done.put(None)
            except BaseException as error:  # whatever ended it is raised where the run is iterated
                done.put(error)

        threading.Thread(target=work, name="captions", daemon=True).start()
        while (one := done.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one

    async def _main(self, done: "queue.SimpleQueue[Any]") -> None:
        self._done = done
        self._left = {shard: len(clips) for shard, clips in self._pending.shards.items()}
        self._journal = Journal(self._dataset, self._captioner.table)
        self._folds: list[asyncio.Task[None]] = []
        self._silent: list[tuple[_Item, Failure, list[Reply]]] = []
        self._has_answered = False
        self._room = asyncio.Condition()
        workers = self._job.backend.concurrency
        self._questions: asyncio.Queue[_Item | None] = asyncio.Queue(workers)
        await asyncio.to_thread(language_identifier)  # now, and not when the first answers come
        try:
            async with self._job.backend.open(self._job.prompt.schema) as ask, asyncio.TaskGroup() as tasks:
                self._feeder = tasks.create_task(self._feed(workers))
                for _ in range(workers):
                    tasks.create_task(self._work(ask))
            if self._silent and not self._has_answered:
                raise CaptionError(f"no clip got an answer, the last because: {self._silent[-1][1].message}; run again when that is mended")
            await self._end_silence()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await self._journal.close()
            await asyncio.gather(*self._folds)
            await asyncio.to_thread(fold_all, self._dataset, self._captioner)

    async def _feed(self, workers: int) -> None:
        """Put every clip into the queue, then one None per worker. The reading is done in a thread."""
        items = self._items()
        while (item := await asyncio.to_thread(next, items, None)) is not None:
            await self._questions.put(item)
        for _ in range(workers):
            await self._questions.put(None)

    def _items(self) -> Iterator[_Item]:
        for shard, clips in self._pending.shards.items():
            for view in clip_views(self._dataset, shard, FACT_TAGS):
                if pending := clips.get(view.clip_id):
                    yield self._item(shard, pending, view)

    def _item(self, shard: str, pending: PendingClip, view: ClipView) -> _Item:
        if not pending.frames.chosen:
            return _Item(shard, pending, view, None, "the clip has no keyframes")
        try:
            shown = pictures(view.keyframes, pending.frames, view.clip)
        except ValueError as error:
            return _Item(shard, pending, view, None, str(error))
        messages = self._job.prompt.messages(shown, view.clip["end_s"] - view.clip["start_s"], view.tags)
        return _Item(shard, pending, view, Question(messages, self._job.prompt, self._job.temperatures))

    async def _work(self, ask: Ask) -> None:
        """One clip after the other, until there are no more or the limits are reached."""
        while (item := await self._questions.get()) is not None and await self._may_begin():
            await self._caption(ask, item)

    async def _may_begin(self) -> bool:
        """Wait until another clip fits into the limits, since those under way may turn out cheaper; False if it never will."""
        async with self._room:
            while not self.stopped_at_limit and not self.spending.begin():
                if self.spending.under_way:
                    await self._room.wait()
                else:
                    self._stop()
            return not self.stopped_at_limit

    def _stop(self) -> None:
        """Nothing more is begun."""
        self.stopped_at_limit = True
        self._feeder.cancel()
        while not self._questions.empty():
            self._questions.get_nowait()
        for _ in range(self._questions.maxsize):
            self._questions.put_nowait(None)
        self._room.notify_all()

    async def _caption(self, ask: Ask, item: _Item) -> None:
        """Go through a clip's dialogue from where an earlier run left it, keeping every answer before the next is asked for."""
        key, shard, replies, unsaved = item.pending.key, item.shard, list(item.pending.replies), list[Entry]()
        if item.question is None:
            await self._settle(item, self._failure(item, FailureCode.NO_FRAMES, item.problem, replies), replies)
            return
        try:
            while isinstance(step := advance(item.question, replies), Request):
                if unsaved:
                    await self._journal.add(shard, *unsaved)
                reply = await ask(step)
                unsaved = [answer_line(key, len(replies), reply)]
                replies.append(reply)
        except Unanswered as error:
            self._silent.append((item, self._failure(item, error.code, str(error), replies), replies))
            if len(self._silent) >= _GIVE_UP_AFTER:
                raise CaptionError(
                    f"{len(self._silent)} clips in a row got no answer, the last because: {error}; run again when that is mended"
                ) from error
            return
        if isinstance(step, Answered):
            await self._settle(item, self._row(item, step, replies), replies, unsaved)
        else:
            await self._settle(item, self._failure(item, FailureCode.INVALID_ANSWER, step.problem, replies), replies, unsaved)
        await self._end_silence()

    async def _end_silence(self) -> None:
        """The backend answers: clips that got no answer meanwhile have failed, each for itself."""
        self._has_answered = True
        silent, self._silent = self._silent, []
        for item, failure, replies in silent:
            await self._settle(item, failure, replies)

    async def _settle(self, item: _Item, end: CaptionRecord | Failure, replies: list[Reply], unsaved: Sequence[Entry] = ()) -> None:
        """A clip is done; so is its shard if it was the last."""
        await self._journal.add(item.shard, *unsaved, end_line(end))
        if isinstance(end, Failure):
            self.failures[end.code] += 1
        elif end.reason:
            self.null_reasons[end.reason] += 1
        self.captioned += isinstance(end, CaptionRecord)
        async with self._room:
            self.spending.end(Usage.of(replies[len(item.pending.replies) :]))
            self._room.notify_all()
        self._done.put(item.view.clip_id)
        self._left[item.shard] -= 1
        if not self._left[item.shard]:
            self._folds.append(asyncio.create_task(asyncio.to_thread(fold, self._dataset, self._captioner, item.shard)))

    def _row(self, item: _Item, answer: Answered, replies: list[Reply]) -> CaptionRecord:
        key, used, caption = item.pending.key, Usage.of(replies), answer.caption
        language = self._job.prompt.language
        texts = caption.model_dump() if caption else dict.fromkeys(FIELDS)
        return CaptionRecord(
            clip_id=key.clip_id,
            **texts,
            reason=answer.reason,
            camera_agrees=camera_agrees(caption.camera, language, item.view.tags.get("motion_camera")) if caption else None,
            language=language,
            model=key.model,
            prompt_version=key.prompt_version,
            frames=list(key.frames),
            frame_side=key.frame_side,
            requests=used.requests,
            tokens_in=used.tokens_in,
            tokens_out=used.tokens_out,
            seconds=round(used.seconds, 3),
            cost=used.cost(self._job.prices),
        )

    def _failure(self, item: _Item, code: FailureCode, message: str, replies: list[Reply]) -> Failure:
        key, used, video = item.pending.key, Usage.of(replies), item.view.video
        facts = {"model": key.model, "prompt_version": key.prompt_version, "requests": used.requests}
        facts |= {"tokens_in": used.tokens_in, "tokens_out": used.tokens_out, "cost": used.cost(self._job.prices)}
        extra = {name: str(value) for name, value in facts.items() if value is not None}
        stage, retryable = self._captioner.stage, code in RETRYABLE
        return Failure(video["video_id"], key.clip_id, video["uri"], stage, code, message, retryable, extra=extra)


def _first(errors: "BaseExceptionGroup[BaseException]") -> BaseException:
    """One error of a group, which may hold groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
