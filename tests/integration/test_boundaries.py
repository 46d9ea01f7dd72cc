"""What doctor says of a connection, by where it leads."""

from types import SimpleNamespace
from typing import Any

import pytest

from pg_qwen_embed.admin.doctor.boundaries import look_at_connection


def leads_to(host: str, *, encrypted: bool) -> Any:
    return SimpleNamespace(info=SimpleNamespace(host=host), pgconn=SimpleNamespace(ssl_in_use=encrypted))


@pytest.mark.parametrize("host", ["", "/tmp/socket", "localhost", "127.0.0.1", "::1"])  # noqa: S108
def test_connection_within_the_machine_needs_no_encryption(host: str) -> None:
    assert list(look_at_connection(leads_to(host, encrypted=False))) == []


def test_connection_over_the_network_needs_encryption() -> None:
    (found,) = look_at_connection(leads_to("db.example", encrypted=False))
    assert "db.example is not encrypted" in found.text
    assert list(look_at_connection(leads_to("db.example", encrypted=True))) == []
