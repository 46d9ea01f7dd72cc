"""Around one HTTP request: certificates, proxies, and the error sentence of a server. No request is made here."""

import ssl
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson
import pybase64

from pg_qwen_embed.domain.errors import UsageError


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


def proxy_of(url: str) -> tuple[str | None, dict[str, str]]:
    """The proxy of the environment without its password, and the headers that carry the password.

    The URL may appear in a message. aiohttp itself would look the proxy up for each request, in a thread."""
    target = urlsplit(url)
    found = None if proxy_bypass(target.hostname or "") else getproxies().get(target.scheme)
    if not found:
        return None, {}
    parts = urlsplit(found)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.username is None:
        return shown, {}
    known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return shown, {"Proxy-Authorization": f"Basic {pybase64.b64encode(known.encode()).decode()}"}


def distrust(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)


def sentence_of(content: bytes) -> str:
    """The server's own sentence, from SGLang's flat error, OpenAI's nested one, or plain text."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return " ".join(content[:200].decode(errors="replace").replace("\0", "").split())
    if not isinstance(answer, dict):
        return ""
    nested = answer.get("error")
    found = answer.get("message") or (nested.get("message") if isinstance(nested, dict) else nested) or ""
    return str(found).replace("\0", "")


def reason_of(error: Exception) -> str:
    os_error = getattr(error, "os_error", error)
    return getattr(os_error, "strerror", None) or str(error) or type(error).__name__
