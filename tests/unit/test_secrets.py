"""Secrets: whatever the value, no form of it is left in a message; a URL in which one is misplaced is not shown."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.secrets import Secrets
from pg_qwen_embed.inference.route import proxy_of
from pg_qwen_embed.postgres.connection import conninfo
from pg_qwen_embed.settings import Settings, resolve

# Nothing of it is a part of our own sentences, so that finding it is no coincidence.
secret = st.text(st.sampled_from("XYZ012/@#?:%& ,;=+'\"\\[]é"), min_size=12, max_size=30).filter(
    lambda s: s == s.strip() and sum(c.isalnum() for c in s) >= 6
)
around = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(secret, around, around)
def test_a_secret_is_hidden_in_each_of_its_forms(value: str, before: str, behind: str) -> None:
    forms = [value, quote(value), quote(value, safe=""), json.dumps(value), repr(value), value.upper()]
    forms.append(base64.b64encode(value.encode()).decode())
    hidden = Secrets([value]).hidden
    for form in forms:
        text = hidden(f"{before} {form} {behind}")
        assert value not in text
        assert form.strip("'\"=") not in text


def test_a_short_value_is_a_part_of_words_and_stays() -> None:
    assert Secrets(["abc", ""]).hidden("abcdef") == "abcdef"
    assert "abc" not in repr(Secrets(["abcdef"]))


def pieces(value: str) -> list[str]:
    """Parts of a secret between the characters that end a part of a URL, long enough to be told from other words."""
    for end in "/@#?:, ":
        value = value.replace(end, "\n")
    return [piece for piece in value.split("\n") if len(piece) >= 4 and not piece.isdigit()]


def said(settings: dict[str, str | None]) -> str:
    """Everything that is said of these settings: an error, or the URLs as they are shown."""
    try:
        found = resolve({}, **settings)
    except UsageError as error:
        return str(error)
    return f"{found!r} {[one.shown_server_url for one in found.servers]} {found.server_root}"


@given(secret)
def test_a_password_that_is_not_escaped_in_the_url_of_a_server_is_not_shown(value: str) -> None:
    shown = said({"server_url": f"http://me:{value}@gpu.example:30000/v1"})
    assert [piece for piece in pieces(value) if piece in shown] == []


@given(secret)
def test_a_password_that_is_not_escaped_in_the_url_of_the_database_is_never_taken_for_a_host(value: str) -> None:
    url = f"postgresql://me:{value}@db.example:5432/shop"
    try:
        read = conninfo_to_dict(conninfo(resolve({}, database_url=url).database_url, "a test"))
        shown = str(read | {"password": None})
    except UsageError as error:
        shown = str(error)
    assert [piece for piece in pieces(value) if piece in shown] == []


@given(secret)
def test_a_password_that_is_not_escaped_in_the_url_of_a_proxy_is_not_shown(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", f"http://me:{value}@proxy.example:3128")
        patch.setenv("no_proxy", "")
        try:
            found = proxy_of("http://gpu.example/v1")
        except UsageError as error:
            shown = str(error)
        else:
            shown = f"{found!r} {found.url}"
            assert "proxy.example" in str(found.url)
    assert [piece for piece in pieces(value) if piece in shown] == []


@given(secret, st.sampled_from(["server_url", "database_url", "api_key"]))
def test_every_secret_of_the_settings_is_hidden(value: str, where: str) -> None:
    assume(not value.isalpha())
    own = {
        "server_url": f"http://me:{quote(value, safe='')}@gpu.example/v1",
        "database_url": f"postgresql://me:{quote(value, safe='')}@db/shop",
        "api_key": value,
    }
    found = resolve({}, **{where: own[where]})
    assert value not in found.secrets.hidden(f"it said: {value}!")
    assert quote(value, safe="") not in found.secrets.hidden(own[where])


@pytest.mark.parametrize(
    "url", ["host=h password='a long %s' dbname=d", "host=h password=%s", "postgresql:///d?host=h&password=%s"]
)
def test_the_password_of_a_connection_string_is_hidden(url: str) -> None:
    written = url % "s3cret-12"
    assert "s3cret-12" not in Settings(written).secrets.hidden(f"FATAL: {written}")


def test_an_api_key_with_a_line_break_is_rejected_without_showing_it() -> None:
    with pytest.raises(UsageError, match="line break") as error:
        resolve({"PG_QWEN_EMBED_API_KEY": "s3cret\n"})
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/d", "postgresql://u:p?x#y@h:5432/d", "postgresql://h1:1,h2:2/d?target_session_attrs=any",
        "postgresql://[::1]:5432/d", "postgresql:///d?host=/tmp", "postgresql://u@%2Ftmp/d", "postgresql://",
        "postgresql://u:p@h/d?application_name=a@b",
    ],
)  # fmt: skip
def test_database_urls_that_libpq_reads_stay_as_they_are(url: str) -> None:
    assert resolve({}, database_url=url).database_url == url
