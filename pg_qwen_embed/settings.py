"""The settings: where the database and the embedding servers are.

An option overrides the environment, which overrides the default. `resolve` is the only place that reads them. It checks
the form of the URLs; whether anything answers there is found out elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.foreign import escaped
from pg_qwen_embed.domain.secrets import Secrets
from pg_qwen_embed.domain.texts import is_storable

DEFAULT_SERVER_URL = "http://127.0.0.1:30000/v1"
LONG_SECRET = 8  # characters
ESCAPES = "write / ? # @ of a password as %2F %3F %23 %40"
# What other libraries add to a URL: Prisma, asyncpg, Django, Java.
_FOREIGN_PARAMETERS = frozenset(
    {"pgbouncer", "connection_limit", "pool_timeout", "schema", "statement_cache_size", "prepared_statement_cache_size",
     "socket_timeout", "pool_size", "max_overflow", "conn_max_age", "currentSchema", "ssl", "prepareThreshold"}
)  # fmt: skip
_USERINFO = re.compile(r"[^@/]*@")  # as libpq ends it
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")
_PASSWORD = re.compile(r"password\s*=\s*('(?:\\.|[^'\\])*'|[^\s&]+)")  # in a connection string, or the query of a URL

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
    "reranker_url": (
        ("PG_QWEN_EMBED_RERANKER_URL",),
        "The base URL of a reranker, such as Qwen3-Reranker on SGLang (default: none).",
    ),
    "reranker_api_key": (("PG_QWEN_EMBED_RERANKER_API_KEY",), "The key sent to the reranker as a Bearer token."),
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
    reranker_url: str | None = field(default=None, repr=False)  # may hold a password
    reranker_api_key: str | None = field(default=None, repr=False)

    @property
    def servers(self) -> tuple["Settings", ...]:
        """These settings once for each embedding server."""
        urls = (self.server_url, *self.further_server_urls)
        return tuple(replace(self, server_url=url, further_server_urls=()) for url in urls)

    @property
    def reranker(self) -> "Settings | None":
        """These settings with the reranker as the only server, which gets no key but its own. None: there is none."""
        if self.reranker_url is None:
            return None
        return replace(self, server_url=self.reranker_url, api_key=self.reranker_api_key, further_server_urls=())

    @property
    def server_list(self) -> str:
        """All server URLs, written like the setting."""
        return ", ".join((self.server_url, *self.further_server_urls))

    @property
    def shown_server_url(self) -> str:
        """The URL without user, password and query: for requests and for messages."""
        parts = urlsplit(self.server_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def server_credentials(self) -> tuple[str, str] | None:
        """User and password of the server's URL."""
        user, _, password = _userinfo(self.server_url).partition(":")
        return (unquote(user), unquote(password)) if user or password else None

    @property
    def server_secrets(self) -> tuple[str, ...]:
        """What the embedding server is sent, and could repeat."""
        return (*_secrets_of(_userinfo(self.server_url)), *filter(None, [self.api_key]))

    @property
    def secrets(self) -> Secrets:
        """Everything that no output may hold. Short values and plain words are left out: they are parts of sentences."""
        urls = (self.server_url, *self.further_server_urls, self.reranker_url or "")
        userinfos = [_userinfo(url) for url in urls]
        given = _USERINFO.match(self.database_url.partition("://")[2])
        userinfos.append(given[0][:-1] if given else "")
        found = {value for userinfo in userinfos for value in _secrets_of(userinfo)}
        found |= {self.api_key or "", self.reranker_api_key or ""}
        found |= {unquote(value.strip("'")) for value in _PASSWORD.findall(self.database_url)}
        return Secrets(value for value in found if len(value) >= LONG_SECRET and not value.isalpha())

    @property
    def server_root(self) -> str:
        """The server's URL without `/v1`: where /model_info and /ready are."""
        return self.shown_server_url.removesuffix("/v1")


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
        api_key=_valid_key(found["api_key"]),
        reranker_url=_reranker_url(found["reranker_url"]),
        reranker_api_key=_valid_key(found["reranker_api_key"], "RERANKER_API_KEY"),
        model=found["model"],
        ca_file=found["ca_file"],
    )


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _libpq_url(url: str) -> str:
    """libpq ends the user and the password at the first / or @. The rest would stand in its errors."""
    if url.startswith("jdbc:"):
        raise UsageError(
            "the database URL in PG_QWEN_EMBED_DATABASE_URL starts with jdbc:, as Java writes it; leave jdbc: out, and "
            "write user and password in front of the host: postgresql://user:password@host:5432/database"
        )
    scheme, separator, rest = url.partition("://")
    if not separator or "=" in scheme or " " in scheme:  # a connection string
        return url
    given = _USERINFO.match(rest)
    location, _, query = rest[given.end() if given else 0 :].partition("?")
    if "@" in location or any("@" in one.partition("=")[0] for one in query.split("&")):
        raise UsageError(f"the database URL in PG_QWEN_EMBED_DATABASE_URL has an @ behind the host; {ESCAPES}")
    if not all(_HOST.fullmatch(host) for host in location.partition("/")[0].split(",")):
        raise UsageError(f"the database URL in PG_QWEN_EMBED_DATABASE_URL has a port that is no number; {ESCAPES}")
    foreign = [name for one in query.split("&") if (name := one.partition("=")[0]) in _FOREIGN_PARAMETERS]
    if foreign:
        raise UsageError(
            f"the database URL in PG_QWEN_EMBED_DATABASE_URL has the parameter {foreign[0]}, which PostgreSQL's own library "
            "does not know; leave it out"
        )
    return f"{scheme.split('+')[0]}://{rest}"


def _userinfo(server_url: str) -> str:
    return urlsplit(server_url).netloc.rpartition("@")[0]


def _secrets_of(userinfo: str) -> tuple[str, ...]:
    """The password, as it is written and as it is meant; or the user where there is no password: a token."""
    user, _, password = userinfo.partition(":")
    if password:
        return password, unquote(password), f"{unquote(user)}:{unquote(password)}"
    return (user, unquote(user)) if user else ()


def _http_urls(written: str) -> list[str]:
    """A comma separates two URLs only if a URL follows it; otherwise it belongs to a password."""
    urls = re.split(r"[,\s]+(?=\w+://)", written.strip(", \n"))
    return list(dict.fromkeys(_http_url(url, secretive="@" in written) for url in urls))


def _reranker_url(written: str | None) -> str | None:
    """Its base URL, also where its endpoint was written."""
    url = (written or "").strip()
    return _http_url(url, secretive="@" in url, what="reranker").removesuffix("/rerank") if url else None


def _http_url(url: str, *, secretive: bool, what: str = "server") -> str:
    """secretive: a password is written somewhere, so nothing of what cannot be read is shown."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid and secretive:
        raise UsageError(f"a {what} URL is not a URL; write it like {DEFAULT_SERVER_URL}, and {ESCAPES}")
    if not valid:
        raise UsageError(f"the {what} URL {_start(url)!r} is not a URL; write it like {DEFAULT_SERVER_URL}")
    if "@" in parts.path or "?" in url or "#" in url:
        raise UsageError(
            f"a {what} URL has @, ? or # behind the host; write it like {DEFAULT_SERVER_URL}, and {ESCAPES}"
        )
    return url.rstrip("/")


def _start(url: str) -> str:
    """Without what stands where a port should be: a password whose host was forgotten."""
    scheme, separator, rest = url.rpartition("://")
    host, colon, port = rest.partition(":")
    readable = not separator or not colon or port.partition("/")[0].isdigit() or host.startswith("[")
    return escaped(url if readable else f"{scheme}://{host}:...")[:100]


def _valid_key(key: str | None, variable: str = "API_KEY") -> str | None:
    if key is not None and escaped(key) != key:
        raise UsageError(f"the API key holds a line break or another control character; see PG_QWEN_EMBED_{variable}")
    return key
