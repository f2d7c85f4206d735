"""README says what there is."""

from pathlib import Path

from schemas.records import FailureCode
from schemas.tags import TAGS

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_tag_stands_in_the_readme_with_its_method():
    for tag in TAGS:
        assert f"| `{tag.name}` |" in README, tag.name
        assert tag.method in README, tag.name


def test_every_failure_code_stands_in_the_readme():
    assert " ".join(FailureCode) in README
