"""The settings: where the database and the embedding servers are.

An option overrides the environment, which overrides the default. `resolve` is the only place that reads them. It checks
the form of the URLs; whether anything answers there is found out elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.texts import is_storable

DEFAULT_SERVER_URL = "http://127.0.0.1:30000/v1"

# The variables of each setting, and its meaning. The commands' help and the documentation are generated from this.
VARIABLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "database_url": (
        ("PG_QWEN_EMBED_DATABASE_URL", "DATABASE_URL"),
        "The database, as a libpq URL or connection string (default: libpq's own variables, PGHOST ...).",
    ),
    "server_url": (
        ("PG_QWEN_EMBED_SERVER_URL",),
        f"The embedding server's OpenAI-compatible base URL (default {DEFAULT_SERVER_URL}); "
        "separate several servers by commas.",
    ),
    "api_key": (("PG_QWEN_EMBED_API_KEY",), "The key sent to the embedding server as a Bearer token."),
    "ca_file": (
        ("PG_QWEN_EMBED_CA_FILE",),
        "A PEM file with the certificate authorities to trust for the embedding server (default: the system's).",
    ),
    "model": (("PG_QWEN_EMBED_MODEL",), "The model of new embeddings (default: the one that the server serves)."),
}


@dataclass(frozen=True, slots=True)
class Settings:
    database_url: str = field(default="", repr=False)  # may hold a password
    server_url: str = field(default=DEFAULT_SERVER_URL, repr=False)  # may hold a password
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    ca_file: str | None = None
    further_server_urls: tuple[str, ...] = field(default=(), repr=False)

    @property
    def servers(self) -> tuple["Settings", ...]:
        """These settings once for each embedding server."""
        urls = (self.server_url, *self.further_server_urls)
        return tuple(replace(self, server_url=url, further_server_urls=()) for url in urls)

    @property
    def server_list(self) -> str:
        """All server URLs, written like the setting."""
        return ", ".join((self.server_url, *self.further_server_urls))

    @property
    def shown_server_url(self) -> str:
        """The URL without user, password and query: for messages."""
        parts = urlsplit(self.server_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def server_root(self) -> str:
        """The server's URL without `/v1`: where /model_info and /ready are."""
        return self.server_url.removesuffix("/v1")


def resolve(environment: Mapping[str, str], **options: str | None) -> Settings:
    """Settings from options, then the environment, then defaults. Raises UsageError for an invalid URL.

    A `DATABASE_URL` in SQLAlchemy's form (`postgresql+psycopg://`) is accepted."""
    found = {name: options.get(name) or _first(environment, VARIABLES[name][0]) for name in VARIABLES}
    for name, value in found.items():
        if not is_storable(value or ""):
            raise UsageError(f"the setting {VARIABLES[name][0][0]} is not valid UTF-8; write it in UTF-8")
    first, *further = _http_urls(found["server_url"] or DEFAULT_SERVER_URL)
    return Settings(
        database_url=_libpq_url(found["database_url"] or ""),
        server_url=first,
        further_server_urls=tuple(further),
        api_key=found["api_key"],
        model=found["model"],
        ca_file=found["ca_file"],
    )


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _libpq_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if separator and rest.split("/")[0].count("@") > 1:
        raise UsageError("the database URL has more than one @ before the host; write an @ in the password as %40")
    return f"{scheme.split('+')[0]}://{rest}" if separator else url


def _http_urls(written: str) -> list[str]:
    """A comma separates two URLs only if a URL follows it; otherwise it belongs to a password."""
    return list(dict.fromkeys(_http_url(url) for url in re.split(r"[,\s]+(?=\w+://)", written.strip(", \n"))))


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"the server URL {url.rpartition('@')[2]!r} is not a URL; write it like {DEFAULT_SERVER_URL}")
    return url.rstrip("/")
