"""The three layouts of a store, one object each: what differs between them is here, and nowhere else.

A layout owns the names of its statements, the parameters they are bound with, and how they are locked. Each attribute
that names a statement is a literal, so that the catalogue's test sees it."""

from collections.abc import Sequence

from psycopg import sql

from pg_qwen_embed.domain.change import Change, entries_of, fingerprint, row_ids_of
from pg_qwen_embed.domain.spec import Layout
from pg_qwen_embed.postgres.connection import BinaryValue
from pg_qwen_embed.postgres.expressions import TRUE

Values = dict[str, BinaryValue]


# Arrays need numpy, whose import takes longer than the whole of `status`, which writes none.
def _booleans(values: Sequence[bool]) -> BinaryValue:
    from pg_qwen_embed.postgres import binary

    return BinaryValue(binary.bool_array(values))


def _integers(values: Sequence[int]) -> BinaryValue:
    from pg_qwen_embed.postgres import binary

    return BinaryValue(binary.int8_array(values))


def _bytes(values: Sequence[bytes]) -> BinaryValue:
    from pg_qwen_embed.postgres import binary

    return BinaryValue(binary.bytea_array(values))


class TableLayout:
    """One vector a row, in a table of the generation."""

    create_store = "create_store_table"
    create_view = "create_view_on_table"
    copy_former = "copy_former_table"
    derive = "derive_table"
    write = "write_table"
    clear = "clear_table"
    search = "search"
    search_body = "search_body"
    like_body = "like_body"
    duplicates_body = "duplicates_body"
    search_candidates = "candidates_in_store"  # of a search with a condition
    search_exactly = "exact_rows"
    search_best = "take_rows"
    search_found = "found_rows"
    stored = "stored_plain"  # a count of the vectors
    stored_by_row = "stored_by_row_plain"  # the store, one row for each row of the source
    stored_of_page = "stored_of_page_plain"  # the same, joined to a page of keys
    view_columns: tuple[str, ...] = ("stale",)  # columns that the view adds, other than the vector
    in_source = False  # the vectors are in a column of the source
    has_chunks = False
    # Whether a write sees what every write before it wrote, so that writes wait for each other.
    writes_alone = False
    write_lock = "lock_store_shared"

    first_chunk: sql.Composable = TRUE  # of the store: one row for each row of the source
    whole: sql.Composable = TRUE  # of `stored_by_row`: no chunk is missing, and none is left over
    distinct: sql.Composable = sql.SQL("")

    def has_vector(self, column: sql.Identifier) -> sql.Composable:
        """Whether a row of the source has a vector, where the store alone does not tell."""
        return TRUE

    def write_values(self, changes: Sequence[Change]) -> Values:
        """What `write` is bound with in addition to keys, versions, fingerprints and vectors."""
        truncated = _booleans([change.truncated for change in changes])
        return {"truncated": truncated} | self.entries(changes)

    def entries(self, changes: Sequence[Change]) -> Values:
        """The outbox entries that the changes settle."""
        return {
            "seqs": _integers(entries_of(changes)),
            "row_ids": _bytes(row_ids_of(changes)),
        }

    def left_undone(self, rows: Sequence[tuple[int, ...]]) -> list[int]:
        """The positions of the changes that were not made, from the rows that `write` or `clear` returned."""
        return []


class ColumnLayout(TableLayout):
    """One vector a row, in a column of the source.

    A row that the application has locked is left for later. Its statements run in a transaction of their own, because
    only an explicit COMMIT reports the error of a deferred trigger of the source."""

    create_store = "create_store_column"
    create_view = "create_view_on_column"
    copy_former = "copy_former_column"
    write = "write_column"
    clear = "clear_column"
    search = "search_column"
    search_candidates = "candidates_in_source"
    in_source = True

    def has_vector(self, column: sql.Identifier) -> sql.Composable:
        return sql.SQL("{} IS NOT NULL").format(column)

    def entries(self, changes: Sequence[Change]) -> Values:
        """The outbox entries that the changes settle, and which change each one belongs to."""
        positions = [n for n, change in enumerate(changes, 1) for _ in change.seqs]
        return super().entries(changes) | {"positions": _integers(positions)}

    def left_undone(self, rows: Sequence[tuple[int, ...]]) -> list[int]:
        return [row[0] - 1 for row in rows]


class ChunkedLayout(TableLayout):
    """A vector for each chunk of a document, in a table of the generation; a row is written as a whole."""

    create_store = "create_store_chunked"
    create_view = "create_view_on_chunked"
    copy_former = "copy_former_chunked"
    derive = "derive_chunked"
    write = "write_chunked"
    clear = "clear_chunked"
    search = "search_chunks"
    search_body = "search_chunks_body"
    like_body = "like_chunks_body"
    duplicates_body = "duplicate_chunks_body"
    search_exactly = "exact_chunks"
    search_best = "take_chunks"
    search_found = "found_chunks"
    stored = "stored_chunked"
    stored_by_row = "stored_by_row_chunked"
    stored_of_page = "stored_of_page_chunked"
    view_columns = ("stale", "chunk", "span", "chunk_text")
    has_chunks = True
    writes_alone = True
    write_lock = "lock_store_exclusive"

    first_chunk = sql.SQL("s.chunk = 1")
    whole = sql.SQL("s.whole")
    distinct = sql.SQL("DISTINCT")

    def write_values(self, changes: Sequence[Change]) -> Values:
        """How many chunks each change has, and of each chunk: the change's position, its own number, span and fingerprint."""
        spans = [(n, chunk, *span) for n, change in enumerate(changes, 1) for chunk, span in enumerate(change.spans, 1)]
        by_column = list(zip(*spans, strict=True)) or [()] * 4
        columns = dict(zip(("positions", "chunks", "begins", "ends"), by_column, strict=True))
        columns["counts"] = tuple(len(change.spans) for change in changes)
        own = [fingerprint(change.document[a:b].encode()) for change in changes for a, b in change.spans]
        values = {name: _integers(column) for name, column in columns.items()} | self.entries(changes)
        return values | {"chunk_fingerprints": _bytes(own)}


_LAYOUTS = {Layout.TABLE: TableLayout(), Layout.COLUMN: ColumnLayout(), Layout.CHUNKED: ChunkedLayout()}


def layout_of(layout: Layout) -> TableLayout:
    return _LAYOUTS[layout]
