"""serve."""

from pathlib import Path

import click

from pg_qwen_embed.domain.errors import Error


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=30000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one, which the start line names.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of a model2vec model, or (with the extra 'local') of a sentence-transformers model.  "
    "[default: the packaged one]",
)
@click.option(
    "--api-key",
    envvar="PG_QWEN_EMBED_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="Ask for this key (Authorization: Bearer KEY) everywhere but at /ready and /health.",
)
def serve(host: str, port: int, model: Path | None, api_key: str | None) -> None:
    """Serve embeddings on this machine, without a GPU.

    Speaks the protocol of SGLang (POST /v1/embeddings and what belongs to it), prints one line when it is ready and
    stops on Ctrl-C or SIGTERM.

    The packaged model is small, static and for English only: 256 dimensions, distilled from all-MiniLM-L6-v2. It is
    a stand-in for Qwen3-Embedding on SGLang, to try things and to test with: its vectors are real, but do not judge
    search quality by them. With --model, `dimensions` is offered if the model's config.json says
    "is_matryoshka": true (model2vec: if it was made with PCA).

    \b
    Try it:
      pg-qwen-embed serve &
      curl http://127.0.0.1:30000/v1/embeddings -H 'Content-Type: application/json' \\
           -d '{"input": ["a first text", "a second one"], "dimensions": 64}'
    """
    from pg_qwen_embed.serve import app  # here: the other commands need none of it

    try:
        app.serve(host, port, model, api_key)
    except Error as error:
        raise click.ClickException(str(error)) from error
