"""README and the tags page say what there is."""

from pathlib import Path

from jobs.tags import markdown
from schemas.records import FailureCode
from schemas.tags import DIMENSIONS, TAGS, groups

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tags_page_is_made_from_the_registry():
    page = (ROOT / "schemas/TAGS.md").read_text()
    assert page == markdown(list(TAGS)), "run `reelmill tags --format markdown > schemas/TAGS.md`"


def test_the_readme_counts_the_tags_and_names_their_groups():
    assert f"{len(TAGS)} tags" in README
    for dimension in DIMENSIONS[:-1]:
        assert f"{sum(tag.dimension == dimension for tag in TAGS)} {dimension}" in README
    for group in groups():
        assert f"`{group}`" in README, group


def test_every_failure_code_stands_in_the_readme():
    assert " ".join(FailureCode) in README
