"""Texts that PostgreSQL cannot hold. Pure.

No text in a database of UTF-8 has a NUL, or a lone half of a surrogate pair. Python's strings may have both: bytes of the
command line that are not UTF-8 become such halves, and so does `"\\ud83d"` of a json value."""

import re

REPLACEMENT = "\ufffd"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def is_storable(text: str) -> bool:
    return not _UNSTORABLE.search(text)


def storable(text: str) -> str:
    """The text with the replacement character for each character that PostgreSQL cannot hold."""
    return _UNSTORABLE.sub(REPLACEMENT, text)
