"""What a captioner has done and what is left: rows, failures and kept answers of the clips of a dataset.

A clip is done when it has a row or a failure for the same key. Answers are kept in the journal as they come; a shard's file of captions is
written from it when the shard is done or the run ends, so a clip has one row or one failure whenever a job is killed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from curation.storage import Dataset
from labeling.captions.dialogue import Reply
from labeling.captions.pictures import Budget, Frames, active_size, choose_frames
from schemas.records import CaptionRecord, Failure
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, TableSpec, caption_stage, caption_table, to_arrow

_KEYS = ["clip_id", "model", "prompt_version", "frames", "frame_side"]


@dataclass(frozen=True)
class Key:
    """What an answer depends on. An answer to another key is another caption."""

    clip_id: str
    model: str
    prompt_version: str
    frames: tuple[int, ...]
    frame_side: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Key":
        return cls(row["clip_id"], row["model"], row["prompt_version"], tuple(row["frames"]), row["frame_side"])


@dataclass(frozen=True)
class Captioner:
    """What captions are kept under, and what they are made with. `budget` is None where no picture is shown."""

    name: str  # folder below captions/
    model: str
    prompt_version: str
    budget: Budget | None

    @property
    def table(self) -> TableSpec:
        return caption_table(self.name)

    @property
    def stage(self) -> str:
        """Its name in failures/."""
        return caption_stage(self.name)


@dataclass(frozen=True)
class PendingClip:
    """A clip without a caption: what its answer will be kept under, the pictures to show, and the answers there are."""

    key: Key
    frames: Frames
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class Pending:
    """What is left to do. `outdated` clips have captions by another model or prompt, or of other frames."""

    shards: Mapping[str, Mapping[str, PendingClip]] = field(default_factory=dict)  # shard -> clip_id -> clip, in order
    outdated: tuple[Key, ...] = ()
    failed: int = 0  # clips passed over because they failed before

    @property
    def num_clips(self) -> int:
        return sum(map(len, self.shards.values()))


def find_pending(dataset: Dataset, captioner: Captioner, wanted: Collection[str] | None = None, retry_failed: bool = False) -> Pending:
    """Clips that lack a caption, of those `wanted` (by default all). With `retry_failed`, also those whose failure another try may cure.

    The journals must have been folded (see `fold_all`).
    """
    shards, outdated, failed = {}, list[Key](), 0
    for shard in dataset.shards():
        done = {row["clip_id"]: Key.of(row) for row in _rows(dataset, captioner, shard, _KEYS)}
        failures = {row["clip_id"]: row for row in _failures(dataset, captioner, shard) if _is_final(row, captioner, retry_failed)}
        kept = _kept_replies(dataset, captioner, shard)
        todo = {}
        for key, frames in _keys(dataset, captioner, shard):
            if (wanted is not None and key.clip_id not in wanted) or done.get(key.clip_id) == key:
                continue
            if key.clip_id in failures:
                failed += 1
                continue
            if key.clip_id in done:
                outdated.append(done[key.clip_id])
            todo[key.clip_id] = PendingClip(key, frames, kept.get(key, ()))
        if todo:
            shards[shard] = todo
    return Pending(shards, tuple(outdated), failed)


def answer_line(key: Key, turn: int, reply: Reply) -> dict[str, Any]:
    """The journal's line of one answer of a dialogue."""
    return {"key": asdict(key), "turn": turn, "reply": asdict(reply)}


def end_line(end: CaptionRecord | Failure) -> dict[str, Any]:
    """The journal's line of how a dialogue ended."""
    return {"row" if isinstance(end, CaptionRecord) else "failure": asdict(end)}


def fold_all(dataset: Dataset, captioner: Captioner) -> None:
    """Fold every journal: what a killed run has left, or the end of this one."""
    for shard in dataset.journaled(captioner.table):
        fold(dataset, captioner, shard)


def fold(dataset: Dataset, captioner: Captioner, shard: str) -> None:
    """Move what has ended from a shard's journal to its tables. Killed at any moment and done again, it comes to the same."""
    files = dataset.read_journal(captioner.table, shard)
    lines = [line for lines in files.values() for line in lines]
    rows = {line["row"]["clip_id"]: line["row"] for line in lines if "row" in line}
    failures = {line["failure"]["clip_id"]: Failure(**line["failure"]) for line in lines if "failure" in line}
    merge(dataset, captioner, shard, rows, failures)
    going_on = [line for line in lines if "reply" in line and line["key"]["clip_id"] not in rows.keys() | failures.keys()]
    if going_on:
        dataset.write_journal(captioner.table, shard, going_on)
        dataset.drop_journal(captioner.table, shard, files)
    else:
        dataset.drop_journal(captioner.table, shard)


def merge(
    dataset: Dataset, captioner: Captioner, shard: str, rows: Mapping[str, Mapping[str, Any]], failures: Mapping[str, Failure]
) -> None:
    """Put rows and failures, by clip_id, in place of what a shard had of these clips."""
    if not rows and not failures:
        return
    merged = {row["clip_id"]: row for row in _rows(dataset, captioner, shard) if row["clip_id"] not in failures} | dict(rows)
    order = dataset.read_part(CLIPS, shard, ["clip_id"])["clip_id"].to_pylist()
    dataset.write_part(captioner.table, shard, to_arrow(captioner.table, (dict(merged[name]) for name in order if name in merged)))
    standing = [row for row in _failures(dataset, captioner, shard) if row["clip_id"] not in rows.keys() | failures.keys()]
    dataset.replace_failures(shard, captioner.stage, [*(_as_failure(row) for row in standing), *failures.values()])


def _keys(dataset: Dataset, captioner: Captioner, shard: str) -> Iterator[tuple[Key, Frames]]:
    """What the caption of each clip of a shard is kept under, in order."""
    clips = dataset.read_part(CLIPS, shard, ["clip_id", "width", "height", "crop_x", "crop_y", "crop_w", "crop_h"]).to_pylist()
    stills: dict[str, list[Mapping[str, Any]]] = {}
    if captioner.budget:
        for still in dataset.read_part(KEYFRAMES, shard, ["clip_id", "frame", "width", "height"]).to_pylist():
            stills.setdefault(still["clip_id"], []).append(still)
    for clip in clips:
        frames, numbers = Frames((), 1.0, 0), tuple[int, ...]()
        if captioner.budget and (shown := stills.get(clip["clip_id"])):
            frames = choose_frames(*active_size(shown[0]["width"], shown[0]["height"], clip), len(shown), captioner.budget)
            numbers = tuple(shown[at]["frame"] for at in frames.chosen)
        yield Key(clip["clip_id"], captioner.model, captioner.prompt_version, numbers, frames.side), frames


def _kept_replies(dataset: Dataset, captioner: Captioner, shard: str) -> dict[Key, tuple[Reply, ...]]:
    """Answers of dialogues that did not end, in their order."""
    found: dict[Key, dict[int, Reply]] = {}
    for lines in dataset.read_journal(captioner.table, shard).values():
        for line in lines:
            if "reply" in line:
                found.setdefault(Key.of(line["key"]), {})[line["turn"]] = Reply(**line["reply"])
    return {key: tuple(turns[turn] for turn in sorted(turns)) for key, turns in found.items()}


def _rows(dataset: Dataset, captioner: Captioner, shard: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    if dataset.part_schema(captioner.table, shard) is None:
        return []
    return dataset.read_part(captioner.table, shard, columns).to_pylist()


def _failures(dataset: Dataset, captioner: Captioner, shard: str) -> Iterable[dict[str, Any]]:
    return (row for row in dataset.read_part(FAILURES, shard).to_pylist() if row["stage"] == captioner.stage)


def _as_failure(row: Mapping[str, Any]) -> Failure:
    return Failure(**{**row, "extra": dict(row["extra"])})


def _is_final(row: Mapping[str, Any], captioner: Captioner, retry_failed: bool) -> bool:
    """Whether a failure is of this model and prompt, and to be left alone."""
    made_with = dict(row["extra"])
    same = (made_with.get("model"), made_with.get("prompt_version")) == (captioner.model, captioner.prompt_version)
    return same and not (retry_failed and row["retryable"])
