"""Tables, columns and types as a person writes them in SQL, read without a database. Pure.

The result is what the catalog would say: unquoted names in lower case, built-in types as format_type() prints them. A type
that is not built into PostgreSQL is kept as it is written; whether it exists is not known here."""

import re
import string

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Column, QualifiedName, check_name
from pg_qwen_embed.domain.text_form import TextForm, text_form, text_form_of_array

DEFAULT_SCHEMA = "public"
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_QUALIFIED = rf"{_NAME}(?:\.{_NAME})*"
_NAMES = re.compile(_NAME)
_COLUMN = re.compile(rf"({_NAME})(?:\s+(.+))?", re.DOTALL)
_PROPERTIES = re.compile(rf"(?P<type>.+?)(?:\s+AS\s+(?P<base>.+?))?(?:\s+COLLATE\s+(?P<collation>{_QUALIFIED}))?",
                         re.DOTALL | re.IGNORECASE)  # fmt: skip
_TYPE = re.compile(
    rf"(?P<name>{_QUALIFIED}(?:\s+[A-Za-z]+)*?)\s*(?:\((?P<modifiers>[^()]*)\))?"
    r"(?P<zone>\s+with(?:out)?\s+time\s+zone)?(?P<array>(?:\s*\[\d*\])*)",
    re.IGNORECASE,
)

_BUILT_IN = {
    "int": "integer", "int4": "integer", "serial": "integer", "int8": "bigint", "bigserial": "bigint",
    "int2": "smallint", "smallserial": "smallint", "bool": "boolean", "dec": "numeric", "decimal": "numeric",
    "float4": "real", "float8": "double precision", "float": "double precision", "varchar": "character varying",
    "char varying": "character varying", "char": "character", "bpchar": "bpchar", "varbit": "bit varying",
    "timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone",
    "time": "time without time zone", "timetz": "time with time zone",
}  # fmt: skip
_BUILT_IN |= {name: name for name in (*_BUILT_IN.values(), "double precision")}
_LENGTH_ONE = {"character", "bit"}  # without a length


def table(text: str) -> QualifiedName:
    """A table's name, with its schema or without. Raises UsageError."""
    parts = _parts(text)
    if len(parts) > 2:
        raise UsageError(
            f'{text}: not a valid table name in SQL; write it like articles, public.articles or app."Odd Name"'
        )
    return QualifiedName(parts[0] if len(parts) == 2 else DEFAULT_SCHEMA, parts[-1])


def column(text: str) -> tuple[str, Column | None]:
    """`NAME TYPE`, or `NAME` alone: then the column is None. Raises UsageError."""
    found = _COLUMN.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a column in SQL: write its name and its type, like 'id bigint'")
    name = _unquoted(found[1])
    return name, column_of(name, found[2]) if found[2] else None


def column_of(name: str, text: str) -> Column:
    """The column of that name and `TYPE [AS BASE] [COLLATE NAME]`. AS: the type is a domain over this one."""
    found = _PROPERTIES.fullmatch(text.strip())
    if not found:
        raise UsageError(f'column "{name}": {text!r} is not a valid type in SQL')
    collation = found["collation"] and QualifiedName(*(["pg_catalog", *_parts(found["collation"])][-2:]))
    base = type_(name, found["base"]) if found["base"] else ""
    type_of_column = type_(name, found["type"])
    return Column(name, type_of_column, base, collation or None, form=_form(base or type_of_column))


def type_(column_name: str, text: str) -> str:
    """A type as format_type() prints it."""
    found = _TYPE.fullmatch(text.strip())
    name = found and _type_name(" ".join(f"{found['name']}{found['zone'] or ''}".split()))
    if not found or not name:
        raise UsageError(
            f'column "{column_name}": {text!r} is not a valid type in SQL; write it like text or numeric(10,2)'
        )
    modifiers = _modifiers(name, found["modifiers"])
    head, zone, rest = name.partition(" with")
    return f"{head}{modifiers}{zone}{rest}{'[]' if found['array'] else ''}"


def _form(written: str) -> TextForm:
    """The form in a document. A type that is not known by its name is passed as text, which is right for every type."""
    leaf = text_form(re.sub(r"\([^()]*\)", "", written.removesuffix("[]")))
    return text_form_of_array(leaf) if written.endswith("[]") else leaf


def _type_name(written: str) -> str | None:
    """The name as the catalog prints it; None for words that cannot be the name of a type."""
    lower = written.translate(_LOWER).removeprefix("pg_catalog.")
    if lower in _BUILT_IN:
        return _BUILT_IN[lower]
    return lower if re.fullmatch(r'[^"\s]+', lower) else written if re.fullmatch(_QUALIFIED, written) else None


def _modifiers(name: str, written: str | None) -> str:
    """`(10,2)`, or nothing. A length or a scale that SQL takes as given is written out."""
    if written is None:
        return "(1)" if name in _LENGTH_ONE else ""
    parts = [part.strip() for part in written.split(",")]
    if name == "numeric" and len(parts) == 1:
        parts.append("0")
    return f"({','.join(parts)})"


def _parts(text: str) -> list[str]:
    """The parts of a qualified name."""
    if not re.fullmatch(_QUALIFIED, text.strip()):
        raise UsageError(f'{text}: not a valid name in SQL; write it like articles, public.articles or app."Odd Name"')
    return [_unquoted(part) for part in _NAMES.findall(text)]


def _unquoted(name: str) -> str:
    found = name[1:-1].replace('""', '"') if name.startswith('"') else name.translate(_LOWER)
    check_name(found, "a name in SQL")
    return found
