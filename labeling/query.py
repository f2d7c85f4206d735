"""Predicates over clips: a boolean SQL expression comes in, the clips it keeps come out, or a funnel of its terms.

A predicate is data from anywhere, so it is read before it is run: DuckDB parses it, and only an expression made of known
columns, constants and functions without effects goes on. What runs is locked down once more (see `labeling.catalog`):
no files, no network, no settings, and a limit on time and memory.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from labeling.catalog import Catalog, caption_columns, captions_compared, quoted
from schemas.tags import TAGS

# What a predicate may be made of. Nothing here has effects, changes from run to run, or can make much out of little.
_PARTS = {"COLUMN_REF", "CONSTANT", "FUNCTION", "OPERATOR", "COMPARISON", "CONJUNCTION", "BETWEEN", "CASE", "CAST", "TYPE", "COLLATE"}
_OPERATORS = {"+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "~~~*"}  # the last are LIKE and its kin
_NUMBERS = {
    "abs", "ceil", "ceiling", "floor", "round", "trunc", "sign", "sqrt", "cbrt", "exp", "ln", "log", "log2", "log10", "pow", "power",
    "mod", "greatest", "least", "isnan", "isinf", "isfinite",
}  # fmt: skip
_TEXTS = {
    "lower", "upper", "length", "strlen", "contains", "starts_with", "ends_with", "prefix", "suffix", "position", "strpos", "instr",
    "substr", "substring", "left", "right", "split_part", "trim", "ltrim", "rtrim", "concat", "strip_accents", "md5",
    "regexp_matches", "regexp_full_match", "regexp_extract", "parse_filename", "parse_dirpath",
    "like_escape", "ilike_escape", "not_like_escape", "not_ilike_escape",
}  # fmt: skip
_REST = {
    "if",
    "ifnull",
    "nullif",
    "map_keys",
    "map_values",
    "map_contains",
    "map_extract",
    "map_extract_value",
    "element_at",
    "cardinality",
}
_FUNCTIONS = _OPERATORS | _NUMBERS | _TEXTS | _REST
_TYPES = {
    "boolean", "bool", "integer", "int", "bigint", "smallint", "float", "real", "double", "decimal", "numeric",
    "varchar", "text", "string",
}  # fmt: skip
_WHAT = {"SUBQUERY": "a subquery", "WINDOW": "a window function", "STAR": "`*`", "PARAMETER": "a parameter", "LAMBDA": "a lambda"}
_BARE, _CLOSED = ("SELECT\n", "\n"), ("SELECT (\n", "\n)")  # what stands around a predicate to read it
# How DuckDB writes the tree of a SELECT that has a list and nothing else.
_SELECT = {
    "type": "SELECT_NODE",
    "cte_map": {},
    "select_list": [],
    "from_table": {"type": "EMPTY"},
    "aggregate_handling": "STANDARD_HANDLING",
}


class QueryError(ValueError):
    """A predicate or column that cannot be used, or a query beyond its limits. The message is one clear line."""


@dataclass(frozen=True)
class Predicate:
    """A predicate that has been read and may be run."""

    text: str
    terms: tuple[str, ...]  # what its outermost ANDs join, in the order written
    columns: frozenset[str]


@dataclass(frozen=True)
class FunnelStep:
    """What is left after one more term of a predicate, and what that term keeps when it is asked alone."""

    term: str
    clips: int
    hours: float
    clips_alone: int


def run_query(catalog: Catalog, predicate: str = "true", columns: Sequence[str] | None = None, limit: int | None = None) -> pa.Table:
    """The clips that a predicate keeps, in order of file and time. `columns` defaults to all.

    Raises QueryError where the predicate or a column cannot be used, or where the query passes the catalog's limits.
    """
    names = [_known(catalog, name) for name in columns] if columns is not None else list(catalog.columns)
    read = parse_predicate(catalog, predicate)
    cut = f" LIMIT {int(limit)}" if limit is not None else ""
    listed = ", ".join(map(quoted, names))
    return _run(catalog, f"SELECT {listed} FROM {_relation(catalog, names, read)} WHERE {_where(read.text)} ORDER BY {catalog.order}{cut}")


def count_clips(catalog: Catalog, predicate: str = "true") -> int:
    """How many clips a predicate keeps. Raises QueryError."""
    read = parse_predicate(catalog, predicate)
    return _run(catalog, f"SELECT count(*) AS n FROM {_relation(catalog, (), read)} WHERE {_where(read.text)}")["n"][0].as_py()


def funnel(catalog: Catalog, predicate: str) -> list[FunnelStep]:
    """Clips and hours left after each term of a predicate, in the order written; the first step is all clips."""
    read = parse_predicate(catalog, predicate)
    names, figures, left = ["all clips", *read.terms], [], "true"
    for term in ("true", *read.terms):
        left += f" AND {_where(term)}"
        figures += [f"count(*) FILTER ({left})", f"coalesce(sum(duration_s) FILTER ({left}), 0) / 3600", f"count(*) FILTER {_where(term)}"]
    listed = ", ".join(f"{figure} AS f{index}" for index, figure in enumerate(figures))
    found = _run(catalog, f"SELECT {listed} FROM {_relation(catalog, ['duration_s'], read)}")
    values = [column[0].as_py() for column in found.columns]
    return [FunnelStep(*step) for step in zip(names, values[0::3], values[1::3], values[2::3], strict=True)]


def parse_predicate(catalog: Catalog, text: str) -> Predicate:
    """Read a predicate and check it against the catalog, without running it. Raises QueryError."""
    node = _expression(catalog, text)
    columns = frozenset(_known(catalog, _name_of(part), text) for part in _parts(node) if part["class"] == "COLUMN_REF")
    predicate = Predicate(text.strip(), tuple(_terms(catalog, text, node)), columns)
    nothing = _run(catalog, f"SELECT {_where(predicate.text)} AS p FROM {_relation(catalog, (), predicate)} LIMIT 0")
    kind = nothing.schema.field("p").type
    if not pa.types.is_boolean(kind):
        raise QueryError(f"a predicate must be true or false for each clip; this one is of type {kind}: compare it with something")
    return predicate


def _relation(catalog: Catalog, names: Sequence[str], predicate: Predicate) -> str:
    return f"({catalog.select([*names, *sorted(predicate.columns)])}) AS clips"


def _where(expression: str) -> str:
    return f"(\n{expression}\n)"  # the line break ends a comment


def _run(catalog: Catalog, sql: str) -> pa.Table:
    with _clear_errors():
        return catalog.connection.sql(sql).to_arrow_table()


def _scalar(catalog: Catalog, call: str, argument: str) -> str:
    with _clear_errors():
        return catalog.connection.sql(f"SELECT {call}", params=[argument]).fetchall()[0][0]


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turns DuckDB's errors into QueryError."""
    import duckdb

    try:
        yield
    except duckdb.InterruptException as error:
        raise QueryError("the query took longer than its time limit: make the predicate simpler") from error
    except duckdb.OutOfMemoryException as error:
        raise QueryError("the query needs more memory than its limit: make the predicate simpler, or ask for fewer columns") from error
    except duckdb.Error as error:
        raise QueryError(f"the query cannot be run: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    first = str(error).split("\n\n")[0].split("LINE 1:")[0]
    return " ".join(re.sub(r"^[\w ]+ Error: ", "", first).split())


# Reading


def _expression(catalog: Catalog, text: str) -> dict[str, Any]:
    """The syntax tree of a predicate, checked to be one expression of allowed parts. Raises QueryError."""
    if not text.strip():
        raise QueryError("the predicate is empty; `true` keeps every clip")
    try:
        node = _only_expression(_parsed(catalog, _CLOSED, text))
        _parsed(catalog, _BARE, text)  # fails where text closes a parenthesis that it did not open
        for part in _parts(node):
            _check(part)
    except RecursionError as error:
        raise QueryError("the predicate is nested too deeply") from error
    return node


def _parsed(catalog: Catalog, around: tuple[str, str], text: str) -> dict[str, Any]:
    options = "skip_null := true, skip_empty := true, skip_default := true"
    tree = json.loads(_scalar(catalog, f"json_serialize_sql(?::VARCHAR, {options})", text.join(around)))
    if tree["error"]:
        raise QueryError(f"cannot read the predicate: {_parse_error(tree, len(around[0]), text)}")
    return tree


def _parse_error(tree: dict[str, Any], start: int, text: str) -> str:
    message = " ".join(tree["error_message"].split("\n")[0].split())
    if "expression depth" in message:
        return "it is nested too deeply"
    written = text.encode()
    at = int(tree.get("position") or -1) - start
    if at >= len(written):
        return "it ends too early"
    return f"{message} (character {len(written[:at].decode(errors='ignore')) + 1})" if at >= 0 else message


def _only_expression(tree: dict[str, Any]) -> dict[str, Any]:
    """The one expression of `SELECT (...)`; anything that reached beyond the parentheses left a trace in the tree."""
    statements = tree["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    selected = node.get("select_list", [])
    if len(selected) == 1 and {**node, "select_list": []} == {**_SELECT, "select_list": []}:
        return selected[0]
    raise QueryError("the predicate must be one expression, such as `motion_mean > 0.1 AND duration_s >= 2`, not a query")


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every expression in a syntax tree, outermost first."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "class" in node:
                yield node
            waiting += reversed(node.values())
        elif isinstance(node, list):
            waiting += reversed(node)


def _check(part: dict[str, Any]) -> None:
    kind = part["class"]
    if kind not in _PARTS:
        what = _WHAT.get(kind, kind.lower().replace("_", " "))
        raise QueryError(f"a predicate may not hold {what}: it is one expression over the columns of a clip")
    if kind == "FUNCTION":
        name = ".".join(part["qualified_name"]["path"])
        if name == "row":
            raise QueryError("the predicate is a list; join conditions with AND or OR")
        if name.lower() not in _FUNCTIONS:
            near = get_close_matches(name.lower(), _FUNCTIONS, 1)
            raise QueryError(f"a predicate may not call {name}(){f'; did you mean {near[0]}()?' if near else ''}")
    if kind == "TYPE" and part.get("type_name", "").lower() not in _TYPES:
        raise QueryError(f"a predicate may not cast to {part.get('type_name', 'this type')}; use one of {', '.join(sorted(_TYPES))}")


def _name_of(part: dict[str, Any]) -> str:
    names = part["column_names"]
    return ".".join(names[1:] if len(names) > 1 and names[0].lower() == "clips" else names)


def _known(catalog: Catalog, name: str, text: str = "") -> str:
    """The column of that name, which SQL matches in any case. Raises QueryError that teaches; `text` is what named it."""
    if name.lower() in catalog.columns:
        return name.lower()
    if f'"{name}"' in text:
        raise QueryError(f"there is no column {name}; text is written in single quotes, as in '{name}'")
    root = catalog.dataset.root
    if tag := next((tag for tag in TAGS if tag.name == name.lower()), None):
        if tag.needs == "clip_captions" and (compared := captions_compared(catalog.dataset)):
            raise QueryError(_compared_with_others(catalog, name.lower(), sorted(compared)))
        run = f"dedup {root}" if tag.group == "dedup" else f"tag {root} --group {tag.group}"
        raise QueryError(f"{name} is a tag that this dataset does not hold yet: run `reelmill {run}`")
    if name.lower() in caption_columns():
        there = catalog.dataset.captioners()
        fix = f"choose one with --captions, of {', '.join(there)}" if there else f"run `reelmill caption {root}`"
        raise QueryError(f"{name} needs captions: {fix}")
    near = get_close_matches(name.lower(), catalog.columns, 3)
    guess = f"; did you mean {' or '.join(near)}?" if near else ";"
    raise QueryError(f"there is no column {name}{guess} README.md lists all columns, and `reelmill tags` the tags")


def _compared_with_others(catalog: Catalog, name: str, compared: Sequence[str]) -> str:
    measured = f"{name} was measured for the captions by {', '.join(compared)}"
    if not (captioner := next(iter(catalog.captions), None)):
        return f"{measured}: choose them with --captions {compared[0]}"
    run = f"reelmill tag {catalog.dataset.root} --group clip_captions --captions {captioner} --models ..."
    return f"{measured}; for those by {captioner}, run `{run}`"


def _terms(catalog: Catalog, text: str, node: dict[str, Any]) -> list[str]:
    """What the outermost ANDs of a predicate join: as written where that can be told for sure, as DuckDB prints it elsewhere."""
    if node["type"] != "CONJUNCTION_AND":
        return [text.strip()]
    printed = [_printed(catalog, child) for child in node["children"]]
    pieces: list[str] = []
    waiting = ""
    for piece in re.split(r"(\bAND\b)", text, flags=re.IGNORECASE):
        if not waiting and piece.upper() == "AND":
            continue
        waiting += piece
        try:
            read = _printed(catalog, _expression(catalog, waiting))
        except QueryError:  # half of a BETWEEN, of a parenthesis, of a string
            continue
        if len(pieces) < len(printed) and read == printed[len(pieces)]:
            pieces.append(waiting.strip())
            waiting = ""
    return pieces if len(pieces) == len(printed) else printed


def _printed(catalog: Catalog, node: dict[str, Any]) -> str:
    tree = {"error": False, "statements": [{"node": {**_SELECT, "select_list": [node]}}]}
    return _scalar(catalog, "json_deserialize_sql(?::JSON)", json.dumps(tree)).removeprefix("SELECT ")
