"""The options that declare an embedding: shared by `attach` and `sql attach`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import click

from pg_qwen_embed.admin.attach import Declaration
from pg_qwen_embed.cli._options import say
from pg_qwen_embed.domain import index, post, template
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import Index
from pg_qwen_embed.domain.prompt import PromptStyle
from pg_qwen_embed.domain.spec import Chunking, Distance, Spec, StoreKind, TooLong
from pg_qwen_embed.domain.template import Template
from pg_qwen_embed.inference.resolve_model import ResolvedModel, resolve_model
from pg_qwen_embed.settings import Settings

R = TypeVar("R")
MOST_REDUCED = 65_536  # dimensions of a server's vectors of which PCA keeps some

_OPTIONS = (
    click.option(
        "--text", "columns", multiple=True, metavar="COL", help="A column to embed; several are joined by blank lines."
    ),
    click.option(
        "--template", "template_text", metavar="TEXT", help=r"Or a text with columns in braces: '{title}\n\n{body}'."
    ),
    click.option("--name", help="Name of the embedding, and of its view in qwen_embed.  [default: the table's name]"),
    click.option("--dimensions", type=int, help="Length of the vectors.  [default: the model's]"),
    click.option("--model", help="Name of the model.  [env: PG_QWEN_EMBED_MODEL; default: the one that the server serves]"),
    click.option("--instruction",
                 help="The task of a query, in English, or @NAME of the pool (`instructions list`); put in front of "
                 "queries, not of documents."),
    click.option(
        "--prompt-style",
        type=click.Choice([style.value for style in PromptStyle]),
        help="Prompt format of queries.  [default: by the model's name]",
    ),
    click.option(
        "--distance",
        type=click.Choice([distance.value for distance in Distance]),
        default="cosine",
        show_default=True,
        help="Distance of the index and of searches.",
    ),
    click.option("--index", "index_text", default="hnsw", show_default=True, metavar="KIND",
                 help="hnsw, hnsw-binary, hnsw-prefix:N, ivfflat or none; with parameters: hnsw:m=24,ef_construction=128 "
                 "(see docs/indexes.md)."),
    click.option("--store", type=click.Choice([kind.value for kind in StoreKind]), default="table", show_default=True,
                 help="Keep vectors in a table of their own, or in a column of TABLE (see docs/objects-locks-grants.md)."),
    click.option(
        "--column",
        default="embedding",
        show_default=True,
        help="Name of the vector column in the view, and in TABLE with --store column.",
    ),
    click.option("--view-columns", default="", metavar="COLS",
                 help="More columns of TABLE that the view shows: 'title,lang', or all. They cannot be altered or "
                 "dropped.  [default: none; join TABLE instead]"),
    click.option("--view-name", "view_names", multiple=True, metavar="OWN=NAME",
                 help="Another name for a column of the view's own: stale=is_stale."),
    click.option("--too-long", type=click.Choice([policy.value for policy in TooLong]), default="truncate",
                 show_default=True,
                 help="Over-long documents: truncate or fail."),
    click.option("--chunk-tokens", type=click.IntRange(max=1_000_000), metavar="N",
                 help="Divide documents into chunks of at most N tokens, each with its own vector."),
    click.option("--chunk-overlap", type=int, metavar="M",
                 help="About how many tokens of the previous chunk a chunk repeats.  [default: 0]"),
    click.option("--words", metavar="CONFIG",
                 help="Keep the words of documents too, for searches by words: a text search configuration (english, simple, "
                 "german ...), or cjk for Chinese, Japanese, Korean and Thai."),
    click.option("--post", "post_form", default="none", show_default=True, metavar="METHOD",
                 help="What is done with the server's vectors: none, center, pca:N, whiten or half-whiten; fitted on the "
                 "documents that are there (see docs/post-processing.md)."),
    click.option("--no-notify", "notify", flag_value=False, default=True,
                 help="Let the triggers send no NOTIFY, for PREPARE TRANSACTION; the worker polls once a second."),
    click.option("--comment", default="", metavar="TEXT", help="A note for administrators; `status --json` shows it."),
)  # fmt: skip
_NAMES = (
    "columns", "template_text", "name", "dimensions", "model", "instruction", "prompt_style", "distance", "store", "column",
    "view_columns", "view_names", "too_long", "chunk_tokens", "chunk_overlap", "words", "post_form", "notify", "comment",
    "index_text",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeclarationOptions:
    """The options as given. model and dimensions are not confirmed yet. properties: the other properties of the spec."""

    name: str | None
    model: str | None
    dimensions: int | None
    instruction: str | None
    column: str
    view_columns: tuple[str, ...] | None
    view_names: tuple[tuple[str, str], ...]
    template: Template
    properties: dict[str, Any]

    def resolved(self, settings: Settings, table: str, *, backfill: bool = True) -> Declaration:
        """The declaration, with the model and the dimensions that the server confirms. Raises what `resolve_model` does."""
        wanted: Index = self.properties["index"]
        reduced = str(self.properties["post"]).startswith("pca")  # then the index holds fewer than the server makes
        most = MOST_REDUCED if reduced else wanted.most_dimensions
        chosen = asyncio.run(resolve_model(settings, self.model, self.dimensions, most=most))
        if chosen.warning:
            say(f"warning: {chosen.warning}", err=True)
        return self._declaration(chosen, table, backfill)

    def unconfirmed(self, settings: Settings, table: str) -> Declaration:
        """The declaration, without a request to a server. Raises UsageError unless model and dimensions are given."""
        model = self.model or settings.model
        if model is None or self.dimensions is None:
            raise UsageError(
                "a described table is printed without a request to the server: add --model and --dimensions"
            )
        return self._declaration(ResolvedModel(model, self.dimensions), table, backfill=True)

    def like(self, spec: Spec, settings: Settings, table: str) -> Declaration:
        """The declaration, with the model, dimensions and prompt style of this spec where none is given. No server is asked."""
        chosen = ResolvedModel(self.model or settings.model or spec.model, self.dimensions or spec.requested_dimensions)
        properties = self.properties | {"prompt_style": self.properties["prompt_style"] or spec.prompt_style}
        return replace(self, properties=properties)._declaration(chosen, table, backfill=True)

    def _declaration(self, chosen: ResolvedModel, table: str, backfill: bool) -> Declaration:
        spec = chosen.spec(self.template, **self.properties)
        return Declaration(
            table, spec, self.name, self.instruction, self.column, backfill, self.view_columns, self.view_names
        )


def names(text: str) -> tuple[str, ...]:
    """The names of columns, with commas between them."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def declaration_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command these options, which it gets as one argument, `options`."""

    @wraps(command)
    def run(*args: Any, **values: Any) -> R:
        given = {name: values.pop(name) for name in _NAMES}
        return command(*args, options=_options(**given), **values)

    decorated: Callable[..., R] = run
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _options(
    *, columns: tuple[str, ...], template_text: str | None, prompt_style: str | None, distance: str, store: str,
    too_long: str, chunk_tokens: int | None, chunk_overlap: int | None, words: str | None, post_form: str, notify: bool,
    comment: str, view_columns: str, index_text: str, view_names: tuple[str, ...], **others: Any,
) -> DeclarationOptions:  # fmt: skip
    properties = {
        "prompt_style": PromptStyle(prompt_style) if prompt_style else None,
        "distance": Distance(distance),
        "store": StoreKind(store),
        "too_long": TooLong(too_long),
        "chunking": _chunking(chunk_tokens, chunk_overlap),
        "words": words,
        "post": post.check(post_form),
        "notify": notify,
        "comment": comment,
        "index": index.parse(index_text),
    }
    return DeclarationOptions(
        template=_template(columns, template_text),
        properties=properties,
        view_columns=_view_columns(view_columns),
        view_names=tuple(sorted(_view_name(text) for text in view_names)),
        **others,
    )


def _view_columns(text: str) -> tuple[str, ...] | None:
    """None: all."""
    if text == "all":
        return None
    return names(text)


def _view_name(text: str) -> tuple[str, str]:
    own, _, name = text.partition("=")
    if not own or not name:
        raise UsageError(f"--view-name {text}: write it like stale=is_stale")
    return own, name


def _template(columns: tuple[str, ...], text: str | None) -> Template:
    if bool(columns) == (text is not None):
        raise UsageError("say what to embed: either --text COL (once or more) or --template '{title}\\n\\n{body}'")
    return template.parse(text) if text is not None else template.from_columns(columns)


def _chunking(tokens: int | None, overlap: int | None) -> Chunking | None:
    if tokens is None and overlap is not None:
        raise UsageError("--chunk-overlap is for chunks: add --chunk-tokens, or leave it out")
    return None if tokens is None else Chunking(tokens, overlap or 0)
