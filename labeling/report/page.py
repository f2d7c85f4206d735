"""The report page: gathers what a dataset or manifest is to say of itself, and sets it in the template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.storage import Dataset
from labeling.catalog import Catalog
from labeling.overview import overview
from labeling.query import FunnelStep, QueryError, funnel, parse_predicate, run_query
from labeling.report.charts import histogram_svg
from labeling.report.sheets import FACT_COLUMNS, Sheet, clock, contact_sheets
from labeling.report.templates import environment, hours, number, size, style
from labeling.statistics import Summary, histogram, summarize
from schemas.manifest import Manifest
from schemas.tables import FAILURES
from schemas.tags import DIMENSIONS, TAGS, TagSpec

# A selection most teams would begin with; of it, a dataset is shown the terms whose tags it holds.
DEFAULT_TERMS = (
    "NOT is_short",
    "quality_short_side >= 360",
    "quality_decode_errors < 0.01",
    "quality_black_ratio < 0.1",
    "quality_frozen_ratio < 0.3",
    "quality_sharpness >= 0.2",
    "coalesce(naturalness_slideshow, 0) < 0.5",
    "coalesce(naturalness_screen_recording, 0) < 0.5",
    "coalesce(naturalness_text_area, 0) < 0.1",
    "motion_mean >= 0.01",
)
_FIGURES = (("min", "min"), ("5 %", "p05"), ("median", "p50"), ("95 %", "p95"), ("max", "max"))
_CLIP_COLUMNS = ("duration_s", "boundary_in", "codec", "container")
# More clips than this are drawn by a sample: bars and percentiles look the same, and the page takes seconds, not minutes.
_MOST_CLIPS = 200_000
_MOST_FAILURES, _MOST_RUNS, _MOST_SHARDS, _MOST_BARS = 500, 40, 300, 8


@dataclass(frozen=True)
class Fact:
    """One figure at the head of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of a categorical card; `share` is of all clips that have a value."""

    label: str
    count: int
    share: float


@dataclass(frozen=True)
class Card:
    """One column of the data: its distribution, and how it was measured."""

    name: str
    unit: str
    note: str
    null_share: float
    figures: Sequence[tuple[str, str]]
    svg: str = ""
    bars: Sequence[Bar] = ()


@dataclass(frozen=True)
class Section:
    """The cards of one dimension."""

    title: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    title: str
    kind: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    sheets: Sequence[Sheet]
    sample_note: str = ""
    predicate: str = ""
    digest: str = ""
    steps: Sequence[FunnelStep] = ()
    steps_note: str = ""
    failures: Sequence[Mapping[str, Any]] = ()
    failure_counts: Mapping[str, int] | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    shards: Sequence[tuple[str, str]] = ()
    num_shards: int = 0


def report_of_dataset(catalog: Catalog, where: str | None = None) -> str:
    """HTML of a dataset's report, with the funnel of `where` or of a default selection. Raises QueryError."""
    seen = overview(catalog.dataset)
    predicate = where or _default_predicate(catalog)
    steps = funnel(catalog, predicate)
    rows, sample_note = _rows(catalog, seen.clips)
    failures = catalog.dataset.read(FAILURES, ["code", "uri", "stage", "message", "retryable"])
    failures = failures.sort_by([("code", "ascending"), ("uri", "ascending")])
    captions = f"captions by {', '.join(one.captioner for one in seen.captions)}" if seen.captions else "no captions"
    groups = f"in {len(seen.groups)} groups · {captions}"
    page = Page(
        title=catalog.dataset.root,
        kind="Dataset",
        facts=[
            Fact("videos", f"{seen.videos:,}", f"{hours(seen.video_hours)} · {size(seen.size_bytes)}"),
            Fact("clips", f"{seen.clips:,}", f"{hours(seen.clip_hours)} · {seen.short_clips:,} marked short"),
            Fact("shots", f"{sum(seen.boundaries.values()) - seen.boundaries.get('split', 0):,}", _listed(seen.boundaries)),
            Fact("tags", f"{sum(len(group.coverage) for group in seen.groups)}", groups),
            Fact("failures", f"{sum(seen.failures.values()):,}", _listed(seen.failures) or "nothing failed"),
        ],
        sections=_sections(rows, catalog.tags),
        sheets=contact_sheets(rows, catalog.dataset),
        sample_note=sample_note,
        steps=steps,
        steps_note="" if where else "A common first selection; give your own with --where.",
        failures=failures.slice(0, _MOST_FAILURES).to_pylist(),
        failure_counts=seen.failures,
        runs=[_run(run) for run in reversed(seen.runs[-_MOST_RUNS:])],
    )
    return _render(page)


def report_of_manifest(name: str, manifest: Manifest, dataset: Dataset | None = None) -> str:
    """HTML of a manifest's report; pictures come from `dataset`, since a manifest holds none."""
    rows, facts = manifest.rows, manifest.facts
    lasting = sum(rows["end_s"].to_numpy() - rows["start_s"].to_numpy()) / 3600
    page = Page(
        title=name,
        kind="Manifest",
        facts=[
            Fact("clips", f"{rows.num_rows:,}", f"of {len(rows['video_id'].unique()):,} videos"),
            Fact("time", hours(lasting), f"{clock(3600 * lasting / max(rows.num_rows, 1))} a clip"),
            Fact("tags", f"{len(facts.tag_statistics)}", f"schema version {facts.schema_version}"),
            Fact("cut from", f"{len({path.rsplit('/', 1)[-1] for path in facts.shards}):,} shards", f"{len(facts.shards):,} files"),
        ],
        sections=_sections(rows, TAGS),
        sheets=contact_sheets(rows, dataset),
        predicate=facts.predicate,
        digest=manifest.digest,
        shards=sorted(facts.shards.items())[:_MOST_SHARDS],
        num_shards=len(facts.shards),
    )
    return _render(page)


def _default_predicate(catalog: Catalog) -> str:
    terms = []
    for term in DEFAULT_TERMS:
        try:
            parse_predicate(catalog, term)
            terms.append(term)
        except QueryError:  # a tag that this dataset does not hold
            continue
    return " AND ".join(terms)


def _rows(catalog: Catalog, clips: int) -> tuple[pa.Table, str]:
    """The columns that cards and sheets need, of all clips or of a fair sample of them."""
    columns = [name for name in (*FACT_COLUMNS, *_CLIP_COLUMNS, *(tag.name for tag in catalog.tags)) if name in catalog.columns]
    if clips <= _MOST_CLIPS:
        return run_query(catalog, "true", list(dict.fromkeys(columns))), ""
    below = f"{int(16**8 * _MOST_CLIPS / clips):08x}"  # ids are hashes: those below a threshold are a random sample
    rows = run_query(catalog, f"clip_id < '{below}'", list(dict.fromkeys(columns)))
    return rows, f"Distributions and pictures are of a random sample of {rows.num_rows:,} of the {clips:,} clips."


def _sections(rows: pa.Table, tags: Sequence[TagSpec]) -> list[Section]:
    clip_cards = [_card(rows[name], name, "s" if name == "duration_s" else "", "") for name in _CLIP_COLUMNS if name in rows.column_names]
    tagged = [
        Section(dimension, [_tag_card(rows[tag.name], tag) for tag in tags if tag.dimension == dimension and tag.name in rows.column_names])
        for dimension in DIMENSIONS
    ]
    return [section for section in [Section("clips", clip_cards), *tagged] if section.cards]


def card_of(values: pa.ChunkedArray, name: str) -> Card:
    """The card of one column, with what is known of its tag if it is one of ours."""
    known = next((tag for tag in TAGS if tag.name == name), None)
    return _tag_card(values, known) if known else _card(values, name, "", "")


def _tag_card(values: pa.ChunkedArray, tag: TagSpec) -> Card:
    wanted = {"high": " · higher is better", "low": " · lower is better", "none": ""}[tag.better]
    return _card(values, tag.name, tag.unit, f"{tag.method} (version {tag.version}){wanted}")


def _card(values: pa.ChunkedArray, name: str, unit: str, note: str) -> Card:
    summary = summarize(values)
    if summary.quantiles:
        quantiles = summary.quantiles
        if quantiles["min"] == quantiles["max"]:
            return Card(name, unit, note, summary.null_share, [("always", number(quantiles["min"]))])
        figures = [(label, number(quantiles[key])) for label, key in _FIGURES]
        svg = histogram_svg(histogram(values), quantiles, f"Histogram of {name}: median {quantiles['p50']:.4g} {unit}".strip())
        return Card(name, unit, note, summary.null_share, figures, svg=svg)
    return Card(name, unit, note, summary.null_share, [], bars=_bars(summary))


def _bars(summary: Summary) -> list[Bar]:
    counted = list((summary.values or {}).items())
    shown = [Bar(label, count, count / summary.count) for label, count in counted[:_MOST_BARS]]
    rest = summary.count - sum(bar.count for bar in shown)
    return [*shown, Bar(f"{len(counted) - _MOST_BARS} others", rest, rest / summary.count)] if rest else shown


def _listed(counts: Mapping[str, int]) -> str:
    return " · ".join(f"{count:,} {name}" for name, count in counts.items())


def _run(run: Mapping[str, Any]) -> dict[str, str]:
    failures = sum(sum((run.get(name) or {}).values()) for name in ("failures", "tag_failures"))
    done = [f"{run[name]:,} {name.replace('_', ' ')}" for name in ("videos", "clips", "tagged_clips") if run.get(name)]
    inputs = run.get("inputs") or {}
    return {
        "id": str(run.get("run_id", "?")),
        "command": str(run.get("command", "?")),
        "engine": str(inputs.get("engine", run.get("engine", ""))),
        "started": str(run.get("started", "")),
        "seconds": f"{run['seconds']:,.1f} s" if "seconds" in run else "",
        "done": ", ".join([*done, *([f"{failures:,} failures"] if failures else [])]),
    }


def _render(page: Page) -> str:
    return environment().get_template("page.html").render(page=page, style=style())
