"""The command that a message names as the next step, written so that a shell takes it. Pure."""

import shlex


def command(text: str, name: str) -> str:
    """`pg-qwen-embed`, then the text, with the name in place of {}: quoted, and never taken for an option."""
    quoted = shlex.quote(name)
    if name.startswith("-"):
        return f"pg-qwen-embed {text.replace(' {}', '')} -- {quoted}"
    return f"pg-qwen-embed {text.replace('{}', quoted)}"
