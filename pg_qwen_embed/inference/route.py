"""The way to a server: certificates, and the proxy of the environment. No request is made here."""

import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.secrets import basic


@dataclass(frozen=True, slots=True)
class Proxy:
    """url: without user and password; None: no proxy. headers: those for the proxy. secrets: values to hide."""

    url: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def trusted(ca_file: str | None) -> ssl.SSLContext | bool:
    """What server certificates are checked against; True: what the system trusts. Raises UsageError."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        reason = "it holds no certificate in PEM"
    except (OSError, ValueError) as error:
        reason = reason_of(error)
    raise UsageError(f"the CA file {ca_file} cannot be used ({reason}); see PG_QWEN_EMBED_CA_FILE") from None


def proxy_of(url: str) -> Proxy:
    """The proxy of the environment for this URL. Raises UsageError for one that cannot be read.

    aiohttp itself would look it up for each request, in a thread, and show its password in errors."""
    target = urlsplit(url)
    found = None if proxy_bypass(target.hostname or "") else getproxies().get(target.scheme)
    if not found:
        return Proxy()
    if "://" not in found:
        found = f"http://{found}"
    try:
        parts = urlsplit(found)
        valid = (
            bool(parts.hostname)
            and (parts.port or 1) > 0
            and "@" not in found.removeprefix(f"{parts.scheme}://")[len(parts.netloc) :]
        )
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"the proxy of the environment ({target.scheme}_proxy) is not a URL; write it like http://proxy:3128, "
            "and / ? # @ of a password as %2F %3F %23 %40"
        )
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.username is None:
        return Proxy(shown)
    user, password = unquote(parts.username), unquote(parts.password or "")
    secrets = (password, parts.password or "", f"{user}:{password}") if password else (user, parts.username)
    return Proxy(shown, {"Proxy-Authorization": basic(user, password)}, secrets)


def distrust(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)


def reason_of(error: Exception) -> str:
    os_error = getattr(error, "os_error", error)
    return getattr(os_error, "strerror", None) or str(error) or type(error).__name__
