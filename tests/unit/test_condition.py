"""The check of a condition: what passes stands as one condition in parentheses, whatever it holds."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.condition import condition
from pg_qwen_embed.domain.errors import UsageError

PIECES = [
    "'",
    "''",
    '"',
    "(",
    ")",
    "[",
    "]",
    ";",
    "--",
    "\n",
    "/*",
    "*/",
    "$$",
    "$a$",
    "E'",
    "\\",
    "x",
    " ",
    "1",
    "%",
    "%%",
]


@pytest.mark.parametrize(
    "where",
    ["a > 1", "(a) = (b)", "a = ';'", "a = '('", 'a = "b(;"', "a = $$;($$", "a = $x$ $$ ; $x$", "a /* ; ( /* ( */ */ = 1",
     "a -- ; (\n = 1", r"a = E'\';('", r"a = '\' AND b", "a = ARRAY[1, (2)]", "a$1 = 1", "a$b$ = 1", "価格$1 > 1",
     "価格 > 1", "a = '$1'"],
)  # fmt: skip
def test_what_only_looks_like_more_passes_as_it_is(where: str) -> None:
    assert condition(where, None) == where


@pytest.mark.parametrize(
    "where",
    ["a; b", ")", "a) OR (b", "(a", "[", "'", '"a', "$$ a", "$a$ b $$", "/* a", "/* /* */", "", " \n", "-- a", "/**/", "a\0",
     r"a = E'\'", "a = '\ud800'", "a > $1", "$2", "a > (1+$3)"],
)  # fmt: skip
def test_what_is_more_or_less_than_a_condition_does_not_pass(where: str) -> None:
    with pytest.raises(UsageError):
        condition(where, None)


@pytest.mark.parametrize("where", ["a LIKE '%(n)s'", "a %(b) = 1", "a %(b)\n> s", "a %(2) s"])
def test_a_percent_sign_without_values_is_an_operator_or_a_letter(where: str) -> None:
    assert condition(where, None) == where.replace("%", "%%")


@pytest.mark.parametrize("where", ["a > %(n)s", "b = 1 AND a IN (%(n)s, 2)"])
def test_a_name_of_a_value_without_values_is_a_mistake(where: str) -> None:
    with pytest.raises(UsageError, match="needs a value 'n': give params"):
        condition(where, None)


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_what_passes_never_ends_within_a_string_or_outside_its_parentheses(where: str) -> None:
    """By another reading: strings and comments taken out one after another, in the order of their beginnings."""
    try:
        condition(where, None)
    except UsageError:
        return
    rest = where
    token = re.compile(r"""--[^\n]*|/\*|[eE]'(?:[^'\\]|\\.|'')*'|'[^']*'|"[^"]*"|(\$\w*\$).*?\1""", re.DOTALL)
    at = 0
    while found := token.search(rest, at):
        if found.group() == "/*":
            depth, end = 1, found.end()
            while depth:
                following = re.compile(r"/\*|\*/").search(rest, end)
                assert following is not None
                depth, end = depth + (1 if following.group() == "/*" else -1), following.end()
        else:
            end = found.end()
        rest, at = rest[: found.start()] + " " + rest[end:], found.start() + 1
    assert ";" not in rest
    assert rest.count("(") + rest.count("[") == rest.count(")") + rest.count("]")


def test_values_are_named_and_percent_signs_are_doubled() -> None:
    assert condition("a LIKE 'x%'", None) == "a LIKE 'x%%'"
    assert condition("a LIKE 'x%%' AND b = %(limit)s AND c = %(c d)t", ["limit", "c d"]) == (
        "a LIKE 'x%%' AND b = %(:limit)s AND c = %(:c d)t"
    )
    for where in ("a = %s", "a % 2 = 0", "a = %(b)", "a = %(b)s", "a %"):
        with pytest.raises(UsageError, match=r"percent sign|params lacks"):
            condition(where, ["c"])
