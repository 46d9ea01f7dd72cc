"""Files with questions: pairs of a question and a key as CSV, TSV or JSONL, and judgments of TREC (qrels). Pure.

Every mistake is a UsageError with the file and the line. Nothing is read here: the caller has the text."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.texts import storable

FORMS = "query and key as CSV or TSV with a line of names, or as JSONL"
MOST_GRADE = 1_000
LONGEST_FIELD = 1_000_000  # characters

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A line of a file: a question, a key as text, one value for each of its columns, and a grade."""

    line: int
    query: str
    key: Key
    grade: int = 1


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read. option: by which it was given."""

    option: str
    path: str
    text: str

    def wrong(self, line: int | None, what: str) -> UsageError:
        where = "" if line is None else f", line {line}"
        return UsageError(f"{self.option} {self.path}{where}: {what}")


def pairs(file: File, key: Sequence[str]) -> list[Judged]:
    """The pairs of a file. key: the key columns of the embedding. Raises UsageError."""
    found = []
    for line, row in _rows(file):
        query = _query(file, line, row.get("query"))
        found.append(Judged(line, query, _key(file, line, row, key), _grade(file, line, row.get("grade", 1))))
    return _some(file, found)


def judgments(file: File, queries: File, key: Sequence[str]) -> list[Judged]:
    """Judgments, whose questions are in a second file with the columns id and query. Raises UsageError."""
    texts: dict[str, str] = {}
    for line, row in _rows(queries):
        number = str(row.get("id", "")).strip()
        if not number:
            raise queries.wrong(line, "it has no id; with --judgments the file of queries has the columns id and query")
        texts[number] = _query(queries, line, row.get("query"))
    found = []
    for line, text in enumerate(file.text.splitlines(), 1):
        if not text.strip():
            continue
        fields = text.split()
        if len(fields) != 4:
            raise file.wrong(line, f"it has {len(fields)} fields; a judgment is: question 0 key grade")
        number, _, written, grade = fields
        if number not in texts:
            raise file.wrong(line, f"{queries.option} {queries.path} has no question with the id {number}")
        values = next(csv.reader([written])) if len(key) > 1 else [written]
        if len(values) != len(key):
            raise file.wrong(line, f"the key is {_named(key)}; write its values with commas between them")
        found.append(Judged(line, texts[number], tuple(values), _grade(file, line, grade)))
    return _some(file, found)


def _rows(file: File) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each line with what its columns have, by their names."""
    match file.path.lower().rpartition(".")[2]:
        case "jsonl" | "ndjson":
            yield from _objects(file)
        case "csv":
            yield from _table(file, ",")
        case "tsv" | "tab":
            yield from _table(file, "\t")
        case _:
            raise file.wrong(None, f"its name ends in none of .csv, .tsv and .jsonl; it has {FORMS}")


def _objects(file: File) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(file.text.splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise file.wrong(line, f"it is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise file.wrong(line, 'it is no object; write it like {"query": "..", "key": 1}')
        yield line, row


def _table(file: File, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(file.text.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    try:
        for row in reader:
            if not any(value.strip() for value in row):
                continue
            if names is None:
                names = [name.strip() for name in row]
                if "query" not in names:
                    raise file.wrong(reader.line_num, f"the first line names no column query; the file has {FORMS}")
            elif len(row) != len(names):
                raise file.wrong(reader.line_num, f"it has {len(row)} columns, and the first line names {len(names)}")
            else:
                yield reader.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise file.wrong(reader.line_num, f"it cannot be read ({error})") from None


def _query(file: File, line: int, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise file.wrong(line, "it has no text as its query")
    return storable(given.strip())


def _key(file: File, line: int, row: Mapping[str, Any], columns: Sequence[str]) -> Key:
    """By the names of the columns; or as `key`, which is a list where the key has several columns."""
    if "key" in row and "key" not in columns:
        given = row["key"] if isinstance(row["key"], list) else [row["key"]]
        if len(columns) > 1 and isinstance(row["key"], str):
            given = next(csv.reader([row["key"]]), [])
    else:
        given = [row.get(name) for name in columns]
    if len(given) != len(columns) or any(value is None or value == "" for value in given):
        raise file.wrong(line, f"it has no key; the key is {_named(columns)}, in columns of these names"
                               + (" or in a column key" if len(columns) == 1 else ""))  # fmt: skip
    return tuple(storable(_written(value)) for value in given)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)


def _grade(file: File, line: int, given: Any) -> int:
    try:
        grade = int(given)
    except (TypeError, ValueError):
        grade = MOST_GRADE + 1
    if abs(grade) > MOST_GRADE:
        raise file.wrong(
            line, f"its grade is no whole number of at most {MOST_GRADE:,}: 0 is wrong, and above is right"
        )
    return grade


def _named(columns: Sequence[str]) -> str:
    return ", ".join(columns) if len(columns) == 1 else f"({', '.join(columns)})"


def _some(file: File, found: list[Judged]) -> list[Judged]:
    if not found:
        raise file.wrong(None, f"it has no question; it has {FORMS}")
    return found
