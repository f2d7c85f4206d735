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
        _miss(f"no corpus of real videos at {CORPUS} (set REELMILL_CORPUS)")
    return videos


def _miss(reason: str) -> None:
    if os.environ.get("REELMILL_NO_SKIP"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def weights():
    """Name of a real weight file -> the folder it lies in: the corpus's, or what `make test` unpacked."""
    folders = (CORPUS / "weights", Path(os.environ.get("REELMILL_MODELS", ROOT / ".models")))

    def folder_of(name: str) -> Path:
        found = next((path for folder in folders for path in folder.rglob(name)), None)
        if found is None:
            _miss(f"no {name} in {' or '.join(map(str, folders))}: `make test` unpacks it there (set REELMILL_MODELS)")
        return found.parent

    return folder_of


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of the real test videos, with their INDEX.tsv and CUTS.json."""
    return _need_corpus()


@pytest.fixture(scope="session")
def corpus_index(corpus: Path) -> list[dict[str, str]]:
    """Rows of INDEX.tsv."""
    with (corpus / "INDEX.tsv").open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))
