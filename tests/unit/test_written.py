"""Names, columns and types as a person writes them; that PostgreSQL reads types alike is checked against it elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Column, QualifiedName
from pg_qwen_embed.domain.text_form import TextForm
from pg_qwen_embed.postgres import written


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("articles", "public", "articles"),
        ("App.Articles", "app", "articles"),
        ('app."Odd Name"', "app", "Odd Name"),
        ('"a.b"."say ""x"""', "a.b", 'say "x"'),
        (" articles ", "public", "articles"),
        ("Ärger", "public", "Ärger"),  # PostgreSQL folds ASCII only, in UTF8
    ],
)
def test_a_tables_name_is_read_as_sql_writes_it(text: str, schema: str, name: str) -> None:
    assert written.table(text) == QualifiedName(schema, name)


@pytest.mark.parametrize("text", ["", "a b", 'a"b', "a.b.c", "1a", "a.", '""', "articles, others", "articles; DROP"])
def test_what_is_no_tables_name_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a valid .*name in SQL"):
        written.table(text)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=15))
def test_any_name_can_be_written_in_quotes(name: str) -> None:  # 15 characters have at most 60 bytes
    quoted = '"' + name.replace('"', '""') + '"'
    assert written.table(f"{quoted}.{quoted}") == QualifiedName(name, name)
    assert written.column(f"{quoted} text") == (name, Column(name, "text"))


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("id bigint", Column("id", "bigint")),
        ("ID  INT", Column("id", "integer")),
        ('"Odd ""x"" Name" varchar(20)', Column('Odd "x" Name', "character varying(20)")),
        ("lang text COLLATE \"C\"", Column("lang", "text", "", QualifiedName("pg_catalog", "C"))),
        ('lang text collate "My Schema".german', Column("lang", "text", "", QualifiedName("My Schema", "german"))),
        ("code shop.code AS varchar(8)", Column("code", "shop.code", "character varying(8)")),
        ('code code as text COLLATE "C"', Column("code", "code", "text", QualifiedName("pg_catalog", "C"))),
    ],
)  # fmt: skip
def test_a_column_is_read_with_what_the_catalog_would_say_of_it(text: str, column: Column) -> None:
    assert written.column(text) == (column.name, column)


def test_a_column_without_a_type_has_only_its_name() -> None:
    assert written.column('"Id"') == ("Id", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 text",
        "id bigint NOT NULL",
        "id bigint PRIMARY KEY",
        "id numeric(10",
        "id text; DROP TABLE x",
        "id text, a text",
    ],
)
def test_what_is_no_column_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="in SQL"):
        written.column(text)


@pytest.mark.parametrize(
    ("type_", "form"),
    [("date", "DATE"), ("timestamptz", "INSTANT"), ("timestamp(3)[]", "BY_FUNCTION"), ("money", "BY_FUNCTION"),
     ("text", "AS_IS"), ("uuid[]", "AS_IS"), ("day AS date", "DATE"), ("app.address", "PASSED"), ("regclass", "NONE"),
     ("app.address[]", "PASSED"), ("ext.hstore", "AS_IS"), ("varchar(20)", "AS_IS")],
)  # fmt: skip
def test_the_form_in_a_document_is_known_by_the_type(type_: str, form: str) -> None:
    assert written.column_of("at", type_).form is TextForm[form]
