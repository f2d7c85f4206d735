"""Predicates: what they keep, what they may not be, and how errors teach."""

import pytest

from labeling.catalog import Limits, open_catalog
from labeling.query import FunnelStep, QueryError, count_clips, funnel, parse_predicate, run_query
from tests.labeling.sample import HOSTILE, build


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return open_catalog(build(tmp_path_factory.mktemp("query") / "dataset").root)


@pytest.mark.parametrize(
    ("predicate", "clips"),
    [
        ("true", 24),
        ("NOT is_short", 18),
        ("motion_mean > 0.3 AND motion_mean < 0.9", 8),
        ("clips.Motion_Mean >= 1", 4),
        ("duration_s BETWEEN 2 AND 3", 12),
        ("uri ILIKE '%SCRIPT%' -- a comment", 4),
        ("video_height IN (480) /* and another */", 12),
        ("extra['license'] = 'CC0'", 4),
        ("CASE WHEN is_short THEN has_audio ELSE false END", 3),
        ("coalesce(motion_mean, 0) = 0 OR regexp_matches(uri, 'it''s \"quoted\"')", 12),
        ("start_frame::DOUBLE / 25 = start_s", 24),
        ("naturalness_static_overlay IS NOT NULL", 0),
    ],
)
def test_clips_kept(catalog, predicate, clips):
    assert count_clips(catalog, predicate) == clips


@pytest.mark.parametrize(
    "predicate",
    [
        "1=1) UNION SELECT (1=1",
        "1=1) UNION SELECT * FROM v --",
        "1=1) ORDER BY (uri",
        "1=1) LIMIT (1",
        "1=1) FROM (SELECT 1",
        "true)--",
        "true) OR (true",
        "true /* open",
        "true; DROP VIEW v",
        "true; SELECT 1",
        ";",
        "",
        "true, true",
        "COPY clips TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.db'",
        "PRAGMA database_list",
        "SET threads = 1",
        "read_csv('/etc/passwd')",
        "uri IN (SELECT * FROM read_text('/etc/passwd'))",
        "EXISTS (FROM '/etc/passwd')",
        "EXISTS (WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT * FROM t) FROM t)",
        "getenv('HOME') = 'x'",
        "current_setting('threads') > 1",
        "len(range(100000000000)) > 1",
        "length(repeat('x', 1000000000)) > 1",
        "sleep_ms(10000) IS NULL",
        "random() < 0.5",
        "now() > '2020-01-01'::TIMESTAMP",
        "main.nextval('x') > 1",
        "count(*) > 1",
        "row_number() OVER () > 1",
        "COLUMNS('motion.*') > 0",
        "$1",
        "#1 = 'x'",
        "list_filter([1], lambda x: x > 0)[1] > 0",
        "NULL::INTEGER[100000] IS NULL",
        "(" * 5000 + "true" + ")" * 5000,
        "NOT " * 900 + "true",
        "motion_mean",
        "1",
        "'text'",
        "motion_mean > 'much'",
        "uri ~ '('",
    ],
)
def test_anything_but_one_boolean_expression_is_refused_in_one_line(catalog, predicate):
    for use in (count_clips, run_query, funnel):
        with pytest.raises(QueryError) as error:
            use(catalog, predicate)
        assert 10 < len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_the_connection_itself_reaches_nothing(catalog, tmp_path):
    import duckdb

    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    sneaky = [1]  # noqa: F841 - what a replacement scan would find
    files = (f"FROM read_csv('{secret}')", f"COPY c TO '{tmp_path}/out.csv'", f"ATTACH '{tmp_path}/x.db'")
    for sql in (*files, "SET threads = 1", "INSTALL httpfs", "FROM sneaky"):
        with pytest.raises(duckdb.Error):
            catalog.connection.sql(sql).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("motoin_mean > 1", "no column motoin_mean; did you mean motion_mean"),
        ("xyzzy > 1", "no column xyzzy; README.md lists all columns"),
        ('codec = "h264"', "single quotes, as in 'h264'"),
        ("lenght(uri) > 1", r"may not call lenght\(\); did you mean length\(\)"),
        ("is_short AND", "ends too early"),
        ("true) UNION SELECT (true", "must be one expression, such as"),
        ("true) ORDER BY (true", "must be one expression, such as"),
        ("uri = = 'x'", r"near \"=\" \(character 7\)"),
        ("motion_mean", "true or false for each clip"),
    ],
)
def test_errors_teach(catalog, predicate, message):
    with pytest.raises(QueryError, match=message):
        count_clips(catalog, predicate)


def test_a_known_tag_that_was_not_measured_says_so(tmp_path):
    dataset = build(tmp_path / "dataset")
    dataset._storage[0].rm(dataset.path("tags", "motion"), recursive=True)
    with pytest.raises(QueryError, match=r"motion_mean is a tag .* --group motion"):
        count_clips(open_catalog(dataset.root), "motion_mean > 0")
    with pytest.raises(QueryError, match="no column nothing"):
        run_query(open_catalog(dataset.root), "true", ["uri", "nothing"])


def test_time_and_memory_are_limited(catalog):
    slow = open_catalog(catalog.dataset.root, limits=Limits(seconds=0.001))
    with pytest.raises(QueryError, match="time limit"):
        for _ in range(20):  # a query too small to be caught in the first millisecond is caught in one of these
            count_clips(slow, " AND ".join(f"NOT regexp_matches(concat(uri, '{index}'), '(a*)*(b*)*c')" for index in range(300)))


def test_rows_come_in_order_of_file_and_time(catalog):
    rows = run_query(catalog, "true", ["uri", "start_frame"], limit=9).to_pylist()
    assert len(rows) == 9 and rows == sorted(rows, key=lambda row: (row["uri"], row["start_frame"]))
    assert rows == run_query(catalog, "true", ["uri", "start_frame"]).to_pylist()[:9]


def test_hostile_names_are_plain_text(catalog):
    assert count_clips(catalog, f"uri = '/reels/{HOSTILE}'") == 4


@pytest.mark.parametrize(
    ("predicate", "terms"),
    [
        ("a AND b", None),
        (
            "motion_mean > 0.1 and duration_s BETWEEN 1 AND 2 AND uri != 'x AND y'",
            ("motion_mean > 0.1", "duration_s BETWEEN 1 AND 2", "uri != 'x AND y'"),
        ),
        ("is_short OR has_audio AND is_hdr", ("is_short OR has_audio AND is_hdr",)),
        (
            "CASE WHEN is_short AND is_hdr THEN true ELSE false END AND has_audio",
            ("CASE WHEN is_short AND is_hdr THEN true ELSE false END", "has_audio"),
        ),
    ],
)
def test_terms_are_those_that_and_joins(catalog, predicate, terms):
    if terms is None:
        with pytest.raises(QueryError):
            parse_predicate(catalog, predicate)
    else:
        assert parse_predicate(catalog, predicate).terms == terms


def test_terms_mean_the_same_where_comments_hide_their_text(catalog):
    predicate = "NOT is_short -- AND no text\n AND duration_s < 4"
    assert [step.clips for step in funnel(catalog, predicate)] == [24, 18, 12]


def test_funnel_counts_each_term_in_order(catalog):
    steps = funnel(catalog, "NOT is_short AND motion_mean > 0.6 AND duration_s < 4 AND has_audio AND uri = ''")
    hour = 1 / 3600
    assert steps == [
        FunnelStep("all clips", 24, pytest.approx(60 * hour), 24),
        FunnelStep("NOT is_short", 18, pytest.approx(54 * hour), 18),
        FunnelStep("motion_mean > 0.6", 8, pytest.approx(28 * hour), 8),  # nulls of the last shard are not kept
        FunnelStep("duration_s < 4", 4, pytest.approx(12 * hour), 18),
        FunnelStep("has_audio", 2, pytest.approx(6 * hour), 12),
        FunnelStep("uri = ''", 0, 0.0, 0),
    ]
