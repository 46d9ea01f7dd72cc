"""The program `pg-qwen-embed`, and `python -m pg_qwen_embed`.

Until a command begins, Ctrl-C ends the process as the shell expects, without a traceback from an import."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in a background job
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pg_qwen_embed.cli import main


def run() -> None:
    main(prog_name="pg-qwen-embed")


if __name__ == "__main__":
    run()
