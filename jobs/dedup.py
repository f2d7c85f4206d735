"""`reelmill dedup`: which clips are copies of which, and which copy to keep."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.output import say

if TYPE_CHECKING:
    from curation.storage import Dataset
    from labeling.duplicates import ClipSet, Duplicates

_WRITERS = 8


def dedup(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    semantic: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Also find clips that mean the same, by embeddings/MODEL (SemDeDup).")
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least cosine of clips that mean the same.")] = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the copies and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Find copies among all clips and mark the best of each.

    Nothing is decoded: copies are found by the hashes that the scan stored. Exact copies have the same pictures. Near copies show the
    same scenes recoded, scaled, slightly cropped, with a logo, faster or slower by up to a quarter, or cut shorter; mirrored ones,
    the other way round. Nothing is removed: the tags content_duplicate_* say what is a copy of what, and a query keeps one of each.
    New clips are compared when the command is run again; it writes the whole tag group anew.

    Exit status: 0 done; 1 the job could not run; 2 wrong usage.

    \b
    Examples:
      reelmill dedup dataset
      reelmill dedup dataset --dry-run --json
      reelmill dedup dataset --semantic ViT-L-14-quickgelu-openai --threshold 0.97
      reelmill query dataset "content_duplicate_representative"
    """
    from curation.dedup import TABLES
    from jobs.progress import track
    from jobs.runs import RunRecorder
    from labeling.catalog import open_dataset
    from labeling.duplicates import find_duplicates, read_clips
    from labeling.semantic import mean_embeddings

    there = open_dataset(dataset)
    with there.lock():
        recorder = RunRecorder("dedup", semantic=semantic or "", threshold=threshold)
        shards = there.shards()
        clips = read_clips(there, track(shards, len(shards), "shards read"))
        embeddings = mean_embeddings(there, semantic, clips.clip_id) if semantic else None
        steps = track(range(TABLES), TABLES, "hash tables")
        next(steps, None)
        found = find_duplicates(clips, embeddings, threshold, done=lambda: next(steps, None))
        record = recorder.finish(**_outcome(clips, found))
        if not dry_run:
            _write(there, clips, found)
            record = recorder.finish(**_outcome(clips, found))
            there.write_run(record["run_id"], record)
    if as_json:
        print(json.dumps(record, indent=1))
    _summarize(record, dataset, dry_run)


def _write(dataset: "Dataset", clips: "ClipSet", found: "Duplicates") -> None:
    """Every shard's file of the tag group, several at once: writing waits for the disk most of the time."""
    from jobs.progress import track
    from labeling.duplicates import GROUP, digest, rows
    from schemas.tables import tag_table

    spec, outcome = tag_table(GROUP), digest(clips, found)
    with ThreadPoolExecutor(_WRITERS) as pool:
        written = pool.map(lambda part: dataset.write_part(spec, *part, made_from=outcome), rows(clips, found))
        for _ in track(written, len(clips.shards), "shards written"):
            pass


def _outcome(clips: "ClipSet", found: "Duplicates") -> dict[str, Any]:
    return {
        "clips": len(clips.clip_id),
        "copies": found.counts(),
        "clusters": found.clusters,
        "compared_pairs": found.candidates,
        "skipped_hash_pairs": found.skipped,
    }


def _summarize(record: dict[str, Any], dataset: str, dry_run: bool) -> None:
    copies = record["copies"]
    listed = ", ".join(f"{count:,} {kind}" for kind, count in copies.items() if count) or "none"
    say(f"{record['clips']:,} clips in {record['seconds']:.1f} s: copies: {listed}; {record['clusters']:,} clusters")
    if record["skipped_hash_pairs"]:
        say(f"{record['skipped_hash_pairs']:,} pairs of hashes were not compared, as too many clips share a picture there")
    if dry_run:
        say("nothing was written (--dry-run)")
    else:
        keep = record["clips"] - sum(copies.values())
        say(f'{keep:,} clips to keep: reelmill query {dataset} "content_duplicate_representative"')
