"""Reports: complete, self-contained, and safe whatever the files are called."""

import html
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from curation.storage import Dataset
from jobs.manifest import manifest
from jobs.report import report
from labeling.query import QueryError
from tests.labeling.sample import MESSAGE, NAMES, build


class Page(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("report") / "dataset").root


@pytest.fixture(scope="module")
def written(root):
    out = Path(f"{root}.html")
    report(root, out=out, where="NOT is_short AND motion_mean > 0.6 AND uri NOT LIKE '%<b>%'")
    return out.read_text("utf-8")


def test_the_page_names_no_address_and_runs_nothing(written):
    page = Page(written)
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "srcset", "data")]
    assert links and all(value.startswith(("data:image/jpeg;base64,", "#")) for value in links)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "http://" not in written and "https://" not in written and "url(" not in written and "@import" not in written


def test_hostile_names_stay_text(written):
    assert "<script" not in written.lower() and "<b>not" not in written and "<right>" not in written
    assert html.escape("<script>alert(1)</script>.mp4") in written
    page = Page(written)
    assert MESSAGE in page.text
    titles = " ".join(value for tag, name, value in page.attributes if (tag, name) == ("figure", "title"))
    assert all(f"/reels/{name}" in titles for name in NAMES)


def test_everything_is_there(written):
    page = Page(written)
    for fact in ("videos 6", "clips 24", "shots 18", "failures 3", "2 corrupt · 1 timeout", "20260101T000000Z-curate", "may work again"):
        assert fact in page.text
    assert page.tags.count("svg") > 30
    assert sum(value.startswith("data:image/jpeg") for _, _, value in page.attributes) > 60
    assert "motion_mean diag/s" in page.text and "33.3 % null" in page.text and "mean DIS flow speed" in page.text
    assert "naturalness_static_overlay share no values 100.0 % null" in page.text


def test_the_funnel_counts_in_order(written):
    text = Page(written).text
    rows = ["all clips 24 1.0 min 100.0 % 24", "NOT is_short 18 54.0 s 75.0 % 18", "motion_mean > 0.6 8 28.0 s 33.3 % 8"]
    assert " ".join([*rows, "uri NOT LIKE '%<b>%' 8 28.0 s 33.3 % 24"]) in text


def test_the_page_is_small(written):
    assert len(written) < 2e6


def test_a_default_funnel_uses_what_is_there(root, tmp_path):
    copy = Dataset(shutil.copytree(root, tmp_path / "copy").as_posix())
    copy._storage[0].rm(copy.path("tags", "quality"), recursive=True)
    copy._storage[0].rm(copy.path("keyframes"), recursive=True)
    report(copy.root, out=tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text("utf-8")).text
    assert "NOT is_short 18" in text and "motion_mean >= 0.01" in text and "quality_sharpness" not in text and "no picture" in text


def test_a_large_dataset_is_drawn_from_a_sample(root, tmp_path, monkeypatch):
    import labeling.report.page

    monkeypatch.setattr(labeling.report.page, "_MOST_CLIPS", 12)
    report(root, out=tmp_path / "page.html", where="true")
    text = Page((tmp_path / "page.html").read_text("utf-8")).text
    shown = int(text.split("random sample of ")[1].split()[0])
    assert 6 < shown < 18 and "of the 24 clips" in text and "clips 24" in text and "true 24 1.0 min" in text


def test_report_of_a_manifest(root, tmp_path):
    where = "motion_mean > 0.3 AND NOT is_short AND uri != '<i>'"
    manifest(root, where, tmp_path / "m.parquet", as_json=True)
    report(str(tmp_path / "m.parquet"), out=tmp_path / "plain.html")
    report(str(tmp_path / "m.parquet"), out=tmp_path / "pictures.html", dataset=root)
    plain, pictures = ((tmp_path / name).read_text("utf-8") for name in ("plain.html", "pictures.html"))
    page = Page(plain)
    assert where in page.text and "<i>" not in plain and "clips 12 of 4 videos" in page.text
    assert "motion_mean" in page.text and "clips/part-" in page.text
    assert "img" not in page.tags and Page(pictures).tags.count("img") > 12


def test_a_wrong_predicate_writes_no_page(root, tmp_path):
    with pytest.raises(QueryError):
        report(root, out=tmp_path / "page.html", where="nope > 1")
    assert not list(tmp_path.iterdir())
