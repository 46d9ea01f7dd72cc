"""The command that a message names as the next step, written so that a shell takes it. Pure."""

import re
import shlex

_COMMAND = re.compile(r"pg-qwen-embed ((?:[a-z-]+ )+\{\}(?: --[a-z]+(?: [A-Z]+)?)*)")


def command(text: str, name: str) -> str:
    """`pg-qwen-embed`, then the text, with the name of an embedding in place of {}: quoted, and never taken for an option."""
    before, _, after = text.partition("{}")
    if name.startswith("-"):
        options, after = (after, "") if after.startswith(" --") else ("", after)
        before = f"{before.rstrip()}{options} -- "
    return f"pg-qwen-embed {before}{shlex.quote(name)}{after}"


def with_name(sentence: str, name: str) -> str:
    """The sentence with the name in each of its commands, which are written with {}."""
    return _COMMAND.sub(lambda found: command(found[1], name), sentence)
