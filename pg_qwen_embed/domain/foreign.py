"""Foreign words: what others wrote, made fit for a message, a log line or a terminal. Pure.

Row texts, names of models, roles and tables, and what servers say may hold terminal escapes, line breaks, direction
overrides, or a hundred megabytes. `shown` is the one function through which they come into a sentence. JSON output does
not use it: there a value stays exact."""

import re

SENTENCE = 500  # characters of what a server says
LINE = 4000  # characters of a log line, or of an error
MORE = "..."

# C0 and C1 controls, line and paragraph separators, controls of direction, interlinear annotation, lone surrogates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]")


def shown(text: object, most: int = SENTENCE) -> str:
    """In one line of at most `most` characters: blanks are merged, and what no terminal may get is escaped."""
    whole = str(text)
    beginning = whole[: 8 * most]  # a bound of the work, not of the result
    line = escaped(" ".join(beginning.split()))
    if len(line) <= most and len(beginning) == len(whole):
        return line
    return line[: most - len(MORE)] + MORE


def escaped(text: str, *, keep: str = "") -> str:
    r"""Control characters as `\x1b` or `\u202e`; all others as they are. keep: those that stay."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _code(found[0]), text)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
