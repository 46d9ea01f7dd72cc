"""The pool of instructions: names for those that are shipped, one for each task, and for those that were added. Pure.

An embedding keeps the text, not the name: a name that is removed later changes nothing. The texts are English and in the
form of Qwen3-Embedding's own, whatever the language of the documents (model card: "we recommend ... in English")."""

import difflib
import re
from collections.abc import Iterable

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION

SHIPPED = {
    "retrieval": DEFAULT_INSTRUCTION,
    "questions": "Given a question, retrieve passages that answer the question",
    "duplicates": "Given a text, retrieve texts that have the same meaning",
    "classification": "Given a text, retrieve texts that belong to the same category",
    "clustering": "Given a text, retrieve texts about the same topic or theme",
    "code": "Given a question about programming, retrieve code that answers the question",
    "support-tickets": "Given the description of a problem, retrieve support tickets about the same problem",
    "news": "Given a headline or a topic, retrieve news articles about it",
}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_WRITTEN = re.compile(r"@(\S+)")
_LIST = "pg-qwen-embed instructions list"


def named(text: str | None) -> str | None:
    """The name in `@name`; None: it is the text of an instruction."""
    found = _WRITTEN.fullmatch(text or "")
    return found[1] if found else None


def unknown(name: str, added: Iterable[str]) -> UsageError:
    """Of a name that the pool has not."""
    known = sorted({*SHIPPED, *added})
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6) or [
        one for one in known if name.lower() in one
    ]
    if near:
        return UsageError(
            f"there is no instruction @{name}; did you mean @{' or @'.join(near)}? All are shown by: {_LIST}"
        )
    return UsageError(f"there is no instruction @{name}; there are: {', '.join(f'@{one}' for one in known)}")


def check_new(name: str, text: str) -> None:
    """Raises UsageError for what cannot be added."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"an instruction cannot be called {name!r}; write a name of lower-case letters, digits, - and _, "
                         "of 63 at most, like support-de")  # fmt: skip
    if name in SHIPPED:
        raise UsageError(f"@{name} is shipped with pg_qwen_embed and stays as it is; choose another name")
    if not text.strip():
        raise UsageError(
            f"the instruction @{name} is blank; write what a query asks for, like {SHIPPED['questions']!r}"
        )
    if named(text):
        raise UsageError(f"the instruction @{name} is the name {text!r}; write its text, which {_LIST} shows")
