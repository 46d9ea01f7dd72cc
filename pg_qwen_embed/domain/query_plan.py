"""Why a query does not use the index of an embedding, from PostgreSQL's plan of it. Pure.

The plan is that of EXPLAIN (VERBOSE, FORMAT JSON). Expressions are read as text, as PostgreSQL prints them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pg_qwen_embed.domain.spec import Distance

Node = Mapping[str, Any]

_LITERAL = re.compile(r"'(?:[^']|'')*'")
_IDENTIFIER = re.compile(r'"(?:[^"]|"")*"')
_OPERATOR = re.compile(r"(?:OPERATOR\([^()]*?)?(<=>|<->|<#>|<\+>|<~>|<%>)\)?")
_FUNCTIONS = re.compile(r"\b(\w*distance|inner_product|negative_inner_product)\(")
_CAST = re.compile(r"::\w*\.?(vector|sparsevec|bit|halfvec\(\d+\)|vector\(\d+\))")
_DESCENDING = re.compile(r" DESC(?: NULLS (?:FIRST|LAST))?$")
_OUTER = {"Left": 1, "Right": 0, "Full": None}  # which child is on the nullable side; None: both
_GROUPS = {"Aggregate", "Group", "Unique", "WindowAgg", "SetOp"}
_GROUPED = "rows are grouped, united or made distinct before they are ordered; order and limit the rows of the view in a subquery"
_FEW = 100  # rows, which some lists have together
_OTHER_DISTANCE = {"<=>": "cosine", "<->": "L2", "<#>": "inner product", "<+>": "L1"}


@dataclass(frozen=True, slots=True)
class Read:
    """How a plan reads the vectors of an embedding. relation, index: their names. column: that of the vectors."""

    schema: str
    relation: str
    index: str
    column: str
    distance: Distance


@dataclass(frozen=True, slots=True)
class Scan:
    """What a plan does with the vectors. limit: how many rows are wanted at most; None: all."""

    by_index: bool
    limit: int | None
    sort_keys: tuple[str, ...]
    nullable: bool  # they are on the nullable side of an outer join
    filtered: bool
    grouped: bool  # between them and the sort, rows are grouped or made distinct


def scan_of(plan: Node, read: Read) -> Scan | None:
    """None if the plan does not read these vectors."""
    for path in _paths(plan, ()):
        node = path[-1]
        if (node.get("Schema"), node.get("Relation Name")) == (read.schema, read.relation):
            return _scan(path, read)
    return None


def orders_by_distance(scan: Scan) -> bool:
    return scan.by_index or any(map(_is_distance, scan.sort_keys))


def functions_of(plan: Node) -> list[tuple[str, str]]:
    """The functions that stand in FROM: schema and name."""
    nodes = [path[-1] for path in _paths(plan, ())]
    return [(one.get("Schema", ""), one["Function Name"]) for one in nodes if "Function Name" in one]


def writes(plan: Node) -> bool:
    return any(path[-1]["Node Type"] == "ModifyTable" for path in _paths(plan, ()))


def reasons(scan: Scan, read: Read) -> list[str]:
    """Why an index cannot be used for this scan, each in a sentence; none if the query has the form that an index serves."""
    if scan.grouped:
        return [_GROUPED]
    operator = read.distance.operator
    form = f"write ORDER BY e.{read.column} {operator} the vector, ascending, with a LIMIT"
    keys = [key for key in scan.sort_keys if _is_distance(key)]
    if not keys:
        found = [f"it does not order by a distance; {form}"]
    else:
        found = list(_reasons_of_key(keys[0], read, form))
        if len(keys) == 1 and scan.sort_keys[0] != keys[0]:
            found.append(f"it orders by something else before the distance; {form}")
    if scan.limit is None:
        found.append("it has no LIMIT: all rows are wanted, and to sort them is cheaper; add LIMIT")
    if scan.nullable:
        found.append("the vectors are on the nullable side of an outer join; use JOIN, or put the view first")
    return found


def warnings(scan: Scan, *, iterative: bool, ef_search: int) -> Iterator[str]:
    """What may be missing from the result of an index scan. iterative: hnsw.iterative_scan is on."""
    advice = "set hnsw.iterative_scan = strict_order, for the database with pg-qwen-embed init --database-defaults"
    if iterative:
        return
    if scan.filtered:
        yield (f"it may return fewer rows than there are: the index returns {ef_search} rows, and the filter or the policies "
               f"leave some of them; {advice}")  # fmt: skip
    if scan.limit is not None and scan.limit > ef_search:
        yield f"its LIMIT of {scan.limit} is above hnsw.ef_search: the index returns {ef_search} rows; {advice}"


def warnings_of_lists(scan: Scan, *, iterative: bool, probes: int, measured: int, function: str) -> Iterator[str]:
    """The same for an index of lists. measured: how many of them are enough. function: the one that searches by itself."""
    advice = f"select from the function {function} instead"
    if probes < measured:
        yield (f"it misses near rows: the index reads ivfflat.probes = {probes} of its lists, and {measured} are wanted; "
               f"{advice}, or set ivfflat.probes to {measured}")  # fmt: skip
    if not iterative and (scan.filtered or scan.limit is None or scan.limit > _FEW):
        yield (f"it may return fewer rows than there are: the index returns the rows of {probes} lists; {advice}, or set "
               "ivfflat.iterative_scan = relaxed_order")  # fmt: skip


def _reasons_of_key(key: str, read: Read, form: str) -> Iterator[str]:
    expression = _without_brackets(_DESCENDING.sub("", key))
    if _DESCENDING.search(key):
        yield f"it orders descending, and an index returns the nearest first; {form}"
    bare = _at_top(expression)
    (called, *_) = _FUNCTIONS.findall(expression) or [None]
    operators = _OPERATOR.findall(_masked(expression))
    if not operators and called:
        yield f"it calls the function {called}(), and an index serves an operator; {form}"
        return
    if not _OPERATOR.search(bare) or re.search(r"[-+*/] ?|\|\|", _OPERATOR.sub("", bare)):
        yield f"the distance is part of an expression, and an index serves the bare distance; {form}"
    if operators and operators[0] != read.distance.operator:
        other = _OTHER_DISTANCE.get(operators[0], "another")
        yield (f"it orders by {operators[0]}, the operator of {other} distance, and the index is for "
               f"{read.distance.operator}; {form}")  # fmt: skip
    elif _CAST.search(_before_operator(expression)):
        yield f"it casts the vectors to another type, which the index does not have; {form}"


def _scan(path: Sequence[Node], read: Read) -> Scan:
    ancestors, node = path[:-1], path[-1]
    limits = [one for one in ancestors if one["Node Type"] == "Limit"]
    sorts = [one for one in ancestors if "Sort Key" in one]
    below = path[path.index(limits[-1]) + 1] if limits else path[0]
    nullable = any(
        one.get("Join Type") in _OUTER and _OUTER[one["Join Type"]] in (None, one["Plans"].index(child))
        for one, child in pairwise(path)
    )
    conditions = (text for one in _paths(below, ()) for text in _conditions(one[-1]))
    filtered = any(not re.fullmatch(r"\(*[\w.\"]+ IS NOT NULL\)*", text) for text in conditions)
    return Scan(
        by_index=node.get("Index Name") == read.index and "Order By" in node,
        limit=int(limits[-1]["Plan Rows"]) if limits else None,
        sort_keys=tuple(sorts[-1]["Sort Key"]) if sorts else (),
        nullable=nullable,
        filtered=filtered,
        grouped=bool(sorts) and any(one["Node Type"] in _GROUPS for one in path[path.index(sorts[-1]) :]),
    )


def _conditions(node: Node) -> Iterator[str]:
    """What leaves rows out, apart from the condition by which two tables are joined."""
    yield from (node[name] for name in ("Filter", "Join Filter", "One-Time Filter") if name in node)
    if node["Node Type"] in ("Bitmap Heap Scan", "Seq Scan") and "Recheck Cond" in node:
        yield node["Recheck Cond"]


def _paths(node: Node, above: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    """Each node of a plan, after those above it."""
    path = (*above, node)
    yield path
    for child in node.get("Plans", ()):
        yield from _paths(child, path)


def _is_distance(key: str) -> bool:
    masked = _masked(key)
    return bool(_OPERATOR.search(masked) or _FUNCTIONS.search(masked))


def _masked(text: str) -> str:
    """Without literals and quoted names, in which anything may stand."""
    return _IDENTIFIER.sub("x", _LITERAL.sub("0", text))


def _without_brackets(text: str) -> str:
    """Without the brackets that enclose all of it."""
    text = text.strip()
    while text.startswith("(") and _closing(_same_length(text)) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _closing(text: str) -> int:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    return -1


def _same_length(text: str) -> str:
    """Literals and quoted names blanked, so that positions stay."""
    for pattern in (_LITERAL, _IDENTIFIER):
        text = pattern.sub(lambda found: "x" * len(found[0]), text)
    return text


def _at_top(text: str) -> str:
    """What stands outside of brackets, with an operator that is written with its schema."""
    masked = re.sub(r"OPERATOR\([^()]*?(<=>|<->|<#>|<\+>)\)", r"\1", _masked(text))
    while (inner := re.sub(r"\([^()]*\)", "", masked)) != masked:
        masked = inner
    return re.sub(r"::[\w.\" ]+", "", masked)


def _before_operator(text: str) -> str:
    return _OPERATOR.split(_masked(text), maxsplit=1)[0]
