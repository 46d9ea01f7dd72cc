"""A condition on rows, as an application writes it in SQL: checked before it stands in a statement of ours. Pure.

It is code of the application, like the rest of its SQL. The check is for mistakes: a condition that is more than one, or
that ends in the middle of a string, would otherwise change the statement around it. PostgreSQL checks the rest."""

import re
from collections.abc import Collection, Iterator

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.texts import is_storable

PREFIX = ":"  # of the names of the application's values, so that none is called like one of ours

_TOKEN = re.compile(
    r"""
    (?P<blank>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<whole>[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | (?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?P=dollar))
    | (?P<unended>[eE]?' | " | \$(?:[^\W\d]\w*)?\$)
    | (?P<open>[(\[]) | (?P<close>[)\]]) | (?P<semicolon>;) | (?P<parameter>\$\d+)
    | (?P<other>[^\W\d][\w$]* | \w+ | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")
_VALUE = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^)]+)\)(?P<kind>[sbt])|)")


def condition(where: str, given: Collection[str] | None) -> str:
    """The condition with each value as psycopg's `%(:name)s`, and each other percent sign doubled. Raises UsageError.

    given: the names of the values; None: there are none, and a percent sign is itself, as in psycopg."""
    if not is_storable(where):
        raise UsageError("the condition holds a NUL or half of a surrogate pair, which PostgreSQL cannot hold")
    problem = _problem(where)
    if problem:
        raise UsageError(f"the condition {shown(where, 100)!r} {problem}")
    if given is None and (name := _name_of_value(where)):
        raise UsageError(f"the condition {shown(where, 100)!r} needs a value {name!r}: give params")
    if given is None:
        return where.replace("%", "%%")
    return _VALUE.sub(lambda found: _value(where, found, given), where)


def _problem(where: str) -> str | None:
    """What keeps it from being a part of a statement."""
    depth, is_blank = 0, True
    for kind, token, start in _tokens(where):
        is_blank = False
        match kind:
            case "unended":
                return f"has a {token} without an end"
            case "semicolon":
                return "has a semicolon: it is to be one condition, and no statement"
            case "parameter":
                return f"has a {token}, which stands for no value here: write %(name)s, and give the value in params"
            case "open":
                depth += 1
            case "close":
                depth -= 1
        if depth < 0:
            return f"closes a bracket at character {start + 1} that it has not opened"
    if depth:
        return "opens a bracket that it does not close"
    return "is blank; leave it out to search all rows" if is_blank else None


def _name_of_value(where: str) -> str | None:
    """The name in the first `%(name)s` outside of strings: no SQL that PostgreSQL takes."""
    tokens = [(token, start) for _, token, start in _tokens(where)]
    for at, (_, start) in enumerate(tokens):
        percent, *name = (token for token, _ in tokens[at : at + 5])
        if percent == "%" and len(name) == 4 and name[::2] == ["(", ")"] and name[3] == "s":
            return name[1] if where.startswith(f"%({name[1]})s", start) else None
    return None


def _tokens(where: str) -> Iterator[tuple[str | None, str, int]]:
    """The kind, the text and the beginning of each token; blanks and comments are none."""
    position = 0
    while found := _TOKEN.match(where, position):
        position = found.end()
        if found.lastgroup == "comment":
            position = _end_of_comment(where, position)
            if position < 0:
                yield "unended", found.group(), found.start()
                return
        elif found.lastgroup != "blank":
            yield found.lastgroup, found.group(), found.start()


def _end_of_comment(where: str, position: int) -> int:
    """PostgreSQL's comments nest. -1: it has no end."""
    depth = 1
    for found in _COMMENT.finditer(where, position):
        depth += 1 if found.group() == "/*" else -1
        if not depth:
            return found.end()
    return -1


def _value(where: str, found: re.Match[str], given: Collection[str]) -> str:
    name = found["name"]
    if found["percent"]:
        return "%%"
    if name is None:
        raise UsageError(
            f"the condition {shown(where, 100)!r} has a % at character {found.start() + 1} that is no value: write %(name)s "
            "for a value of params, and %% for a percent sign"
        )
    if name not in given:
        has = f"there are: {shown(', '.join(map(str, given)), 100)}" if given else "it is empty"
        raise UsageError(f"the condition {shown(where, 100)!r} needs a value {name!r}, which params lacks; {has}")
    return f"%({PREFIX}{name}){found['kind']}"
