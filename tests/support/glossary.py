"""The words that docs/words.md replaces, each with the field's word: one list for the documentation and for the code."""

import re

# Patterns of whole words, and what to say instead. Those of NAMES mean other things in a sentence.
# Two replaced words are in neither list. A "line" is mostly a line of text: of a log, a file, a table. To "declare" is
# what a user does with `attach`, and the noun for that is the class Declaration.
WORDS = {
    "anew": "again",
    "amiss": "broken",
    "mend(s|ed|ing)?": "repair, fix",
    "besides?": "next to, in addition to, excluding",
    "of now": "current",
    "under ?way": "in flight, in progress",
    "ever (more|later)": "more and more, growing",
    "in hand": "in flight",
    "at the least": "at least",
    "so many": "the number, or the parameter's name",
    "such as are": "those that are",
    "floors?": "low watermark; in a benchmark: baseline",
    "cursors?": "read position",
    "twins?": "duplicate in flight",
    "fleets?": "balancer",
    "walk(s|ed|ers?|ing)?": "keyset scan, backfill scanner",
    "chores?|house ?keeping": "maintenance",
    "refus(e|es|ed|ing|als?)": "rejected document, model mismatch, protocol error",
    "vouch(es|ed|ing)?": "confirm",
    "doubt(s|ed|ful|ing)?": "half-open, closed; not certain",
    "trip(s|ped|ping)?": "open (a circuit breaker)",
    "patien(ce|t|tly)": "outage timeout",
    "grace": "shutdown timeout",
    "blinks?": "spin interval",
    "excuses?": "error pause",
    "look every": "identity check interval",
    "machinery": "internal schema",
    "forgiven": "cleared",
    "superfluous": "surplus",
    "rigs?": "harness",
    "stand-ins?": "fake SGLang; serve's packaged model",
    "cuts?|cutting": "truncated; for a connection: closed",
    "portions?": "batch",
    "densit(y|ies)": "token ratio",
    "feeds?": "pipeline",
    "senders?": "dispatcher",
}
NAMES = WORDS | {
    "another model": "model mismatch",
    "asked": "resolved model, server handle",
    "choices?": "resolved model",
    "faces?": "public interface",
    "hands?": "manual writer",
    "held back by": "vacuum blocked by",
    "holes?": "placeholders",
    "members?": "upstream",
    "places?": "lease",
    "stand in": "fake SGLang",
    "turns?": "waiter",
}
# Phrases of which such a word is a part, and why they stay.
PHRASES = {
    r"round[- ]trips?": "the network's word",
    r"pg-qwen-embed-stand-in": "the packaged model's id, which is in the registries of users",
    r"refus\w+ connections?|connections? (is |are |was |were )?refused": "the word of TCP and PostgreSQL",
    r"connections? (is |are |was |were )?cut|cuts? (the |a |every )?connections?": "the network's word",
}
_PHRASES = re.compile("|".join(PHRASES), re.IGNORECASE)
_CODE = re.compile(r"`[^`\n]*`")


def in_text(text: str) -> list[str]:
    """The replaced words of a text, each with what to say instead. Code in backticks is left out."""
    return _found(WORDS, _PHRASES.sub("", _CODE.sub("", text)))


def in_name(name: str) -> list[str]:
    """Likewise of an identifier, divided at underscores and capitals."""
    return _found(NAMES, " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)).lower())


def _found(words: dict[str, str], text: str) -> list[str]:
    return [
        f"{found[0]}: {instead}"
        for pattern, instead in words.items()
        for found in re.finditer(rf"\b({pattern})\b", text, re.IGNORECASE)
    ]
