"""The functions of an embedding's public interface: their names, parameters and columns, as placeholders of functions.sql.

In the bodies a parameter is `$1`, `$2` ..: a column of the view may have any name, and none is called like that. Operators,
functions and types are named with their schema, so no search_path decides what a function runs."""

import re
from collections.abc import Iterator, Sequence

from psycopg import sql

from pg_qwen_embed.domain.index import IndexKind
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.source import MAX_NAME_BYTES, Column
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.index_names import IndexNames
from pg_qwen_embed.postgres.key_names import PUBLIC_SCHEMA
from pg_qwen_embed.postgres.sql import statement

LIKE, DUPLICATES = "_like", "_duplicates"
WORDS, HYBRID = "_words", "_hybrid"
SUFFIXES = (LIKE, DUPLICATES, WORDS, HYBRID)
CHUNKS_OF_A_ROW = 4  # that may be among the nearest, in a search by a compressed index
FEW = 100  # rows; up to here one plan serves every k

Parameter = tuple[str, sql.Composable, str]  # name, type, default or nothing


class CallNames(IndexNames):
    """The placeholders of the functions that applications call."""

    @property
    def like_function(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, self.target.name + LIKE)

    @property
    def duplicates_function(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, self.target.name + DUPLICATES)

    def sentence(self, text: str) -> sql.Literal:
        """`{sentence:k is %; ..}`: a message of a function, which begins with the name of the embedding."""
        return sql.Literal(f"{self.target.name}: ".replace("%", "%%") + text)

    @property
    def embedding_name(self) -> sql.Literal:
        return sql.Literal(self.target.name)

    @property
    def ef_search(self) -> sql.Composable:
        """How widely a search looks in the index, as it was measured."""
        return sql.SQL("qwen_embed.ef_search({})").format(self.embedding_name)

    # Parameters and columns. A name that is taken already gets underscores.

    @property
    def search_parameters(self) -> sql.Composed:
        return declared(self._search_parameters(self.halfvec))

    @property
    def search_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._search_parameters(self.halfvec))

    @property
    def text_search_parameters(self) -> sql.Composed:
        return declared(self._search_parameters(sql.SQL("text")))

    @property
    def text_search_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._search_parameters(sql.SQL("text")))

    @property
    def like_parameters(self) -> sql.Composed:
        return declared(self._like_parameters())

    @property
    def like_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._like_parameters())

    @property
    def duplicates_parameters(self) -> sql.Composed:
        return declared(self._duplicates_parameters())

    @property
    def duplicates_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._duplicates_parameters())

    @property
    def found_columns(self) -> sql.Composed:
        """`id bigint, distance double precision`, and of a chunked embedding chunk, span and chunk_text."""
        return columns(self._found_columns)

    @property
    def distance_column(self) -> str:
        """What the functions call the distance."""
        return self._found_columns[len(self._columns)][0]

    @property
    def pair_columns(self) -> sql.Composed:
        """`a_id bigint, b_id bigint, distance double precision`, and of a chunked embedding a_chunk and b_chunk."""
        return columns(self._pair_columns)

    # The key: `e.id`, `$1`, `unnest($3)`.

    @property
    def numbered_key(self) -> sql.Composed:
        """`$1, $2`: the parameters that a key comes in."""
        return joined(sql.SQL(f"${n}") for n, _ in self._numbered)

    @property
    def among_arrays(self) -> sql.Composed:
        """`$3, $4`: the parameters that keys come in, an array for each column."""
        return joined(sql.SQL(f"${n + 2}") for n, _ in self._numbered)

    @property
    def among_given(self) -> sql.Composable:
        """Whether keys were given."""
        return sql.SQL("pg_catalog.num_nonnulls({}) OPERATOR(pg_catalog.>) 0").format(self.among_arrays)

    @property
    def among_rows(self) -> sql.Composed:
        """`pg_catalog.unnest($3), pg_catalog.unnest($4)`."""
        return joined(sql.SQL("pg_catalog.unnest({})").format(sql.SQL(f"${n + 2}")) for n, _ in self._numbered)

    def among_key(self, alias: str) -> sql.Composed:
        """`a.k1`: a key out of these arrays."""
        return joined(_element(sql.Identifier(alias, f"k{n}"), column) for n, column in self._numbered)

    @property
    def among_uneven(self) -> sql.Composable:
        """Whether the arrays of a composite key are not of one length."""
        (first, *others) = [f"${n + 2}" for n, _ in self._numbered]
        if not others:
            return sql.SQL("false")
        some = "pg_catalog.num_nonnulls({arrays}) OPERATOR(pg_catalog.{than}) {count}"
        given = sql.SQL(" AND ").join(
            sql.SQL(some).format(arrays=self.among_arrays, than=sql.SQL(than), count=sql.Literal(count))
            for than, count in ((">", 0), ("<", len(self._columns)))
        )
        lengths = (
            sql.SQL(f"pg_catalog.cardinality({first}) OPERATOR(pg_catalog.<>) pg_catalog.cardinality({other})")
            for other in others
        )
        return sql.SQL(" OR ").join([given, *lengths])

    def equal_key(self, forms: str) -> sql.Composable:
        """`{equal_key:view_key:e=numbered_key}`: whether two keys are the same, in a session with any search_path."""
        return expressions.equal_key(self._columns, *map(self._form, forms.split("=")))

    def greater_key(self, forms: str) -> sql.Composable:
        """`{greater_key:view_key:o>view_key:e}`: whether a key comes after another, likewise."""
        return expressions.greater_key(self._columns, *map(self._form, forms.split(">")))

    def lesser_key(self, forms: str) -> sql.Composed:
        """`{lesser_key:view_key:e>key:h}`: the columns of the key that comes first."""
        return self._one_of(forms, *map(self._form, forms.split(">")))

    def greater_of_keys(self, forms: str) -> sql.Composed:
        """`{greater_of_keys:view_key:e>key:h}`: those of the other one."""
        one, other = map(self._form, forms.split(">"))
        return self._one_of(forms, other, one)

    def _one_of(self, forms: str, one: list[sql.Composable], other: list[sql.Composable]) -> sql.Composed:
        greater = self.greater_key(forms)
        return joined(
            sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(greater, b, a) for a, b in zip(one, other, strict=True)
        )

    @property
    def pair_keys(self) -> sql.Composed:
        """`a1, a2, b1, b2`: the keys of a pair inside the function."""
        return joined(sql.Identifier(f"{side}{n}") for side in "ab" for n, _ in self._numbered)

    @property
    def function_names(self) -> sql.Composed:
        """`'articles', 'articles_like', ..`: what the functions are called that applications call."""
        return joined(sql.Literal(self.target.name + suffix) for suffix in ("", *SUFFIXES))

    @property
    def comment_start(self) -> sql.Literal:
        """How the comment of each object of the embedding begins."""
        return sql.Literal(f"pg_qwen_embed {self.target.name} (generation ")

    @property
    def k(self) -> sql.Composable:
        """The parameter with the number of rows; like_body has it after the key."""
        return sql.SQL("$2")

    # Parts of the bodies.

    @property
    def few(self) -> sql.Literal:
        return sql.Literal(FEW)

    @property
    def nearest_few(self) -> sql.Composable:
        if self.target.spec.index.compressed:
            return self.nearest_many
        limit = sql.SQL("LIMIT {}) few LIMIT $2").format(self.few)
        return statement("nearest_rows", self, limit=limit, ranked=sql.SQL(""))

    @property
    def nearest_many(self) -> sql.Composable:
        """Candidates of a compressed index are more than the rows that are wanted."""
        limit = sql.SQL("LIMIT {}) many").format(self.candidates_for(sql.SQL("$2")))
        ranked = sql.SQL(" LIMIT $2" if self.target.spec.index.compressed else "")
        return statement("nearest_rows", self, limit=limit, ranked=ranked)

    @property
    def chunks_near(self) -> sql.Composable:
        """The chunks among which the nearest are: all of them, or the candidates of a compressed index."""
        if not self.target.spec.index.compressed:
            return self.view
        several = sql.SQL("$2::pg_catalog.int8 OPERATOR(pg_catalog.*) {}").format(sql.Literal(CHUNKS_OF_A_ROW))
        return statement("near_chunks", self, limit=self.candidates_for(sql.SQL("({})").format(several)))

    @property
    def near_pairs(self) -> sql.Composable:
        return self.candidates_for(sql.SQL("$2"))

    @property
    def others(self) -> sql.Composable:
        """The vectors of other rows that are nearest to one."""
        return statement("ranked_others", self) if self.target.spec.index.compressed else self.nearest_others

    @property
    def nearest_others(self) -> sql.Composable:
        return statement("nearest_others", self)

    @property
    def other_chunk(self) -> sql.Composable:
        chunk = sql.Identifier("o", self.target.embedding.view.name("chunk"))
        return sql.SQL(", {}").format(chunk) if self.layout.has_chunks else sql.SQL("")

    @property
    def width(self) -> sql.Composable:
        """How widely a search looks in the index: for as many rows as are wanted, if these are its candidates."""
        if self.target.spec.index.kind is not IndexKind.HNSW:
            return self.ef_search
        return sql.SQL("LEAST(1000, GREATEST({}, {}))").format(self.ef_search, self.k)

    @property
    def best_among(self) -> sql.Composable:
        return statement("best_chunks", self, condition=statement("is_among", self), found=sql.SQL("0"))

    @property
    def best_of_others(self) -> sql.Composable:
        count = sql.SQL("pg_catalog.cardinality(own.done)")
        return statement("best_chunks", self, condition=statement("is_other", self), found=count)

    @property
    def is_among(self) -> sql.Composable:
        return statement("is_among", self)

    @property
    def hold_view(self) -> sql.Composable:
        return statement("hold_view", self)

    @property
    def function_is_missing(self) -> sql.Literal:
        repair = command("verify {} --repair", self.target.name).replace("%", "%%")
        return self.sentence(f"the function % is missing; run: {repair}")

    @property
    def enter_search(self) -> sql.Composable:
        return self._enter(self.view, 2 + len(self._columns))

    @property
    def enter_duplicates(self) -> sql.Composable:
        return self._enter(self.duplicates_function, 3)

    def _enter(self, function: sql.Identifier, parameters: int) -> sql.Composable:
        given = joined(sql.SQL(f"${n}") for n in range(1, parameters + 1))
        return statement("enter", self, again=sql.SQL("{}({})").format(function, given))

    @property
    def use_index(self) -> sql.Composable:
        return statement("use_index", self)

    @property
    def check_k(self) -> sql.Composable:
        return statement("check_k", self)

    @property
    def check_query(self) -> sql.Composable:
        return statement("check_query", self)

    @property
    def check_among(self) -> sql.Composable:
        return statement("check_among", self)

    @property
    def check_threshold(self) -> sql.Composable:
        return statement("check_threshold", self)

    @property
    def is_function(self) -> sql.Composable:
        return statement("is_function", self)

    # Inside.

    def _search_parameters(self, query: sql.Composable) -> list[Parameter]:
        taken = {name for name, _ in self._found_columns}
        parameters: list[Parameter] = [
            (free("query", taken), query, ""),
            (free("k", taken), sql.SQL("integer"), "10"),
        ]
        single = len(self._columns) == 1
        for column, name in zip(self._columns, self._view_key, strict=True):
            parameter = free("among" if single else f"among_{name}", taken)
            parameters.append((parameter, _array(column), "NULL"))
        return parameters

    def _like_parameters(self) -> list[Parameter]:
        taken = {name for name, _ in self._found_columns}
        single = len(self._columns) == 1
        keys: list[Parameter] = [
            (free("key" if single else f"key_{name}", taken), sql.SQL(column.type), "")
            for column, name in zip(self._columns, self._view_key, strict=True)
        ]
        return [*keys, (free("k", taken), sql.SQL("integer"), "10")]

    def _duplicates_parameters(self) -> list[Parameter]:
        taken = {name for name, _ in self._pair_columns}
        return [
            (free("threshold", taken), sql.SQL("double precision"), ""),
            (free("k", taken), sql.SQL("integer"), "10"),
            (free("exact", taken), sql.SQL("boolean"), "false"),
        ]

    @property
    def _found_columns(self) -> list[tuple[str, sql.Composable]]:
        columns = [(name, sql.SQL(c.type)) for name, c in zip(self._view_key, self._columns, strict=True)]
        view = self.target.embedding.view
        chunk = [(view.name(name), sql.SQL(type_)) for name, type_ in _CHUNK] if self.layout.has_chunks else []
        distance = free("distance", {name for name, _ in (*columns, *chunk)})
        return [*columns, (distance, sql.SQL("double precision")), *chunk]

    @property
    def _pair_columns(self) -> list[tuple[str, sql.Composable]]:
        taken: set[str] = set()
        keys = [
            (free(f"{side}_{name}", taken), sql.SQL(column.type))
            for side in "ab"
            for name, column in zip(self._view_key, self._columns, strict=True)
        ]
        chunk = self.target.embedding.view.name("chunk")
        chunks = (
            [(free(f"{side}_{chunk}", taken), sql.SQL("integer")) for side in "ab"] if self.layout.has_chunks else []
        )
        return [*keys, (free("distance", taken), sql.SQL("double precision")), *chunks]

    @property
    def _view_key(self) -> list[str]:
        return [self.target.source.attached_name(column.name) for column in self._columns]


_CHUNK = (("chunk", "integer"), ("span", "int4range"), ("chunk_text", "text"))


def fits(name: str) -> bool:
    """Whether the names of all functions of an embedding of this name are valid names."""
    return all(len((name + suffix).encode()) <= MAX_NAME_BYTES for suffix in SUFFIXES)


def declared(parameters: Sequence[Parameter]) -> sql.Composed:
    return joined(
        sql.SQL("{} {}{}").format(sql.Identifier(name), type_, sql.SQL(f" DEFAULT {default}" if default else ""))
        for name, type_, default in parameters
    )


def columns(columns: Sequence[tuple[str, sql.Composable]]) -> sql.Composed:
    return joined(sql.SQL("{} {}").format(sql.Identifier(name), type_) for name, type_ in columns)


def free(name: str, taken: set[str]) -> str:
    """A name that is not taken and not too long, which is taken from now on."""
    found = next(candidate for candidate in _candidates(name) if candidate not in taken)
    taken.add(found)
    return found


def _candidates(name: str) -> Iterator[str]:
    for underscores in range(MAX_NAME_BYTES):
        shortened = name.encode()[: MAX_NAME_BYTES - underscores].decode(errors="ignore")
        yield shortened + "_" * underscores


def _is_array(column: Column) -> bool:
    return (column.base_type or column.type).endswith("]")


def _array(column: Column) -> sql.Composable:
    """The type of an array of keys. An array has no array: such keys come as text."""
    return sql.SQL("text[]") if _is_array(column) else sql.SQL(re.sub(r"\(\d+(?:,-?\d+)?\)", "", column.type) + "[]")


def _element(value: sql.Composable, column: Column) -> sql.Composable:
    return sql.SQL("{}::{}").format(value, expressions.qualified_type(column)) if _is_array(column) else value
