"""The `reelmill` command: registers every command and turns errors into one line and an exit status."""

import os
import signal
import sys
from collections.abc import Iterator

import typer

from jobs.caption import caption
from jobs.curate import curate
from jobs.dedup import dedup
from jobs.encode import encode
from jobs.explain import explain
from jobs.manifest import manifest
from jobs.materialize import materialize
from jobs.plan import plan
from jobs.query import query
from jobs.report import report
from jobs.sample import sample
from jobs.status import status
from jobs.tag import tag
from jobs.tags import tags
from jobs.train import train

app = typer.Typer(
    name="reelmill",
    help="Raw reels to training data for video generation, and training on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (curate, tag, caption, dedup, status, tags, query, explain, manifest, materialize, encode, report, plan, train, sample):
    app.command()(command)


def main() -> None:
    """Entry point. Exit status: 0 done, 1 could not run, 2 wrong usage, 3 done with failures recorded, 130 interrupted."""
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app()
    except ModuleNotFoundError as error:
        print(
            f"reelmill: the package {error.name} is missing: run `make install`, or pip install reelmill with its extras", file=sys.stderr
        )
        sys.exit(1)
    except Exception as error:
        if not isinstance(error, tuple(_expected())):
            raise
        print(f"reelmill: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _interrupted(number: int, frame: object) -> None:
    """End at once: every write is atomic, so there is nothing to wait for. Training puts a handler of its own in this place."""
    show_cursor = "\033[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{show_cursor}\ninterrupted; run the same command again to go on\n".encode())
    os._exit(130)


def _expected() -> Iterator[type[Exception]]:
    """Errors that a user can mend, of the modules that were loaded for this command; all others are bugs and show themselves."""
    yield from (OSError, ImportError)
    for module, names in _USER_ERRORS.items():
        if module in sys.modules:
            yield from (getattr(sys.modules[module], name) for name in names)


_USER_ERRORS = {
    "curation.encode": ("CutError",),
    "curation.sources": ("SourceError",),
    "curation.storage": ("DatasetError",),
    "jobs.engines": ("EngineError",),
    "jobs.explain": ("ClipError",),
    "jobs.taggers": ("GroupError",),
    "labeling.captions.backends.protocol": ("CaptionError",),
    "labeling.query": ("QueryError",),
    "labeling.tagger": ("TaggerError",),
    "schemas.manifest": ("ManifestError",),
    "schemas.tables": ("SchemaVersionError",),
    "schemas.tags": ("UnknownTagError",),
    "training.config": ("TrainError",),
}


if __name__ == "__main__":
    main()
