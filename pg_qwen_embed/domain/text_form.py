"""In which form a column's value stands in a document: by its type, never by settings of the session. Pure.

docs/querying.md has the forms as a table. A value of a type whose text is always the same is written as PostgreSQL writes
it. The others have an expression, or are written by the function text_of() with settings of its own."""

from enum import StrEnum


class TextForm(StrEnum):
    AS_IS = "as it is"
    DATE = "date"
    TIMESTAMP = "timestamp without time zone"
    INSTANT = "timestamp with time zone"
    BYTES = "bytea"
    BY_FUNCTION = "by function"  # text_of() in the document function
    PASSED = "passed as text"  # the document function gets the text: a composite type is none of its parameters
    NONE = "none"  # the name of another object, which changes without the row


_BY_EXPRESSION = {form.value: form for form in (TextForm.DATE, TextForm.TIMESTAMP, TextForm.INSTANT, TextForm.BYTES)}
_BY_FUNCTION = {
    "real", "double precision", "money", "interval", "int4range", "int8range", "numrange", "tsrange", "tstzrange",
    "daterange", "int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange", "datemultirange",
    "point", "line", "lseg", "box", "path", "polygon", "circle",
}  # fmt: skip
_AS_IS = {
    "smallint", "integer", "bigint", "numeric", "oid", "boolean", "text", "character varying", "character", "bpchar",
    "name", "uuid", "json", "jsonb", "xml", "inet", "cidr", "macaddr", "macaddr8", "bit", "bit varying", "tsvector",
    "time without time zone", "time with time zone",
}  # fmt: skip
_EXTENSIONS = {"citext", "ltree", "hstore"}
_NAMES_OF_OBJECTS = {
    "regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole", "regnamespace", "regconfig",
    "regdictionary", "regcollation",
}  # fmt: skip
_STABLE_CATEGORIES = {"S", "N", "B", "E"}  # strings, numbers, booleans, enums


def text_form(name: str, *, category: str = "", built_in: bool = False) -> TextForm:
    """The form of a type that is neither a domain nor an array.

    name: as format_type() prints it, without a length. category: pg_type.typcategory, if the catalog was asked."""
    last = name.rpartition(".")[2].strip('"')
    if name in _NAMES_OF_OBJECTS:
        return TextForm.NONE
    if name in _BY_EXPRESSION:
        return _BY_EXPRESSION[name]
    if name in _BY_FUNCTION:
        return TextForm.BY_FUNCTION
    if name in _AS_IS or category in _STABLE_CATEGORIES or (last in _EXTENSIONS and category != "C"):
        return TextForm.AS_IS
    return TextForm.BY_FUNCTION if built_in else TextForm.PASSED


def no_text(column: str, type_: str) -> str:
    """Why a column cannot be embedded whose form is NONE."""
    return (
        f'column "{column}" is of type {type_}: its text is the name of an object of the database, and that can change '
        "without the row; use a text column"
    )


def text_form_of_array(element: TextForm) -> TextForm:
    """The form of an array, by that of its elements."""
    return element if element in (TextForm.AS_IS, TextForm.PASSED, TextForm.NONE) else TextForm.BY_FUNCTION
