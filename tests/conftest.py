"""What all tests share: the corpus of real videos, and a dataset curated from a part of it."""

import csv
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("REELMILL_CORPUS", ROOT.parent / "shared"))


def _need_corpus() -> Path:
    videos = CORPUS / "videos"
    if not (videos / "INDEX.tsv").exists():
        reason = f"no corpus of real videos at {CORPUS} (set REELMILL_CORPUS)"
        if os.environ.get("REELMILL_NO_SKIP"):
            pytest.fail(reason)
        pytest.skip(reason)
    return videos


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of the real test videos, with their INDEX.tsv and CUTS.json."""
    return _need_corpus()


@pytest.fixture(scope="session")
def corpus_index(corpus: Path) -> list[dict[str, str]]:
    """Rows of INDEX.tsv."""
    with (corpus / "INDEX.tsv").open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))
