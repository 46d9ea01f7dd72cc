"""`serve`: parses the options of the local embedding server; serve/ is the server."""

import os
from pathlib import Path

import click

from pg_qwen_embed.domain.errors import Error, UsageError
from pg_qwen_embed.settings import VARIABLES

((API_KEY,), _) = VARIABLES["api_key"]  # the commands that send the key read the same variable


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=30000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0: a free one, named in the start line.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of a model2vec model, or (with the extra 'local') of a sentence-transformers model.  "
    "[default: the packaged one]",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Require the key in this file (Authorization: Bearer KEY) on all paths but /ready and /health.  "
    f"[default: the key in {API_KEY}, if that is set]",
)
def serve(host: str, port: int, model: Path | None, api_key_file: Path | None) -> None:
    """Serve embeddings on this machine, without a GPU.

    It speaks the protocol of SGLang (POST /v1/embeddings and its companions), prints one line when it is ready and stops
    on Ctrl-C or SIGTERM.

    The packaged model is small, static and for English only: 256 dimensions, distilled from all-MiniLM-L6-v2. It takes
    the place of Qwen3-Embedding on SGLang for first steps and tests. Its vectors are real, but do not judge search
    quality by them. With --model, requests may set `dimensions` if the model's config.json says
    "is_matryoshka": true (model2vec: if it was made with PCA).

    \b
    Try it:
      pg-qwen-embed serve &
      curl http://127.0.0.1:30000/v1/embeddings -H 'Content-Type: application/json' \\
           -d '{"input": ["a first text", "a second one"], "dimensions": 64}'
    """
    from pg_qwen_embed.serve import app  # here, because the other commands do not need it

    try:
        app.serve(host, port, model, _api_key(api_key_file))
    except Error as error:
        raise click.ClickException(str(error)) from error


def _api_key(file: Path | None) -> str | None:
    """The key that clients must send. Never an option's value: other users of the machine see it in the process list."""
    if file is None:
        source, key = API_KEY, os.environ.get(API_KEY, "")
        if not key:
            return None
    else:
        source, key = str(file), _content(file)
    key = key.strip()
    if not key:
        raise UsageError(f"{source} holds no API key; write the key into it")
    if not key.isprintable() or " " in key:
        raise UsageError(f"the API key in {source} has a blank, a line break or a control character; write one word")
    return key


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the API key cannot be read from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the API key in {file} is not UTF-8; write one word") from error
