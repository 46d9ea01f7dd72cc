"""An embedding server with TLS, whose certificate is signed by an authority that only `ca_file` names."""

import base64
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from fake_sglang import FakeSGLang
from harness import Harness, eventually

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import ServerUnavailable, UsageError
from pg_qwen_embed.inference.route import Proxy, proxy_of

ATTACH = ("attach", "articles", "--text", "body")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


@contextmanager
def behind_tls(harness: Harness, authority: trustme.CA, name: str) -> Iterator[Harness]:
    """Have the embedding server speak TLS, with a certificate for this name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    with FakeSGLang(certificate=context).running() as server:
        harness.server = server
        yield harness


@pytest.fixture
def secure(harness: Harness, authority: trustme.CA) -> Iterator[Harness]:
    harness.articles("one")
    with behind_tls(harness, authority, "127.0.0.1") as behind:
        yield behind


def test_every_command_and_the_worker_trust_the_authority_of_the_ca_file(secure: Harness, ca_file: str) -> None:
    secure.environment["PG_QWEN_EMBED_CA_FILE"] = ca_file
    secure.ok(*ATTACH)
    worker = secure.worker()
    eventually(secure.settled)
    secure.assert_in_step()
    assert "one" in secure.ok("search", "articles", "one")
    assert secure.cli("doctor").exit_code == 0
    assert worker.end() == 0


def test_the_ca_file_is_an_option_too(secure: Harness, ca_file: str) -> None:
    option = ("--ca-file", ca_file)
    secure.ok(*ATTACH, *option)
    secure.ok("worker", "--once", *option)
    assert "one" in secure.ok("search", "articles", "one", *option)
    assert secure.cli("doctor", *option).exit_code == 0
    with Client(secure.url, server_url=secure.server.url, ca_file=ca_file) as asking:
        assert asking.search("articles", "one")


def test_certificate_that_is_not_trusted_is_one_sentence_that_names_the_setting(secure: Harness, ca_file: str) -> None:
    untrusted = (
        f"the certificate of the embedding server at {secure.server.url} is not trusted (unable to get local issuer"
    )
    for said in (secure.refused(*ATTACH), secure.cli("doctor").stdout):
        assert untrusted in said
        assert "set PG_QWEN_EMBED_CA_FILE to the file of the authority that signed it" in said
    secure.ok(*ATTACH, "--ca-file", ca_file)
    worker = secure.worker()
    eventually(lambda: untrusted in worker.said)
    with Client(secure.url, server_url=secure.server.url) as asking, pytest.raises(ServerUnavailable, match="trusted"):
        asking.search("articles", "one")
    assert secure.server.texts == []


def test_certificate_for_another_name_is_not_trusted(harness: Harness, authority: trustme.CA, ca_file: str) -> None:
    harness.articles("one")
    with behind_tls(harness, authority, "elsewhere.example"):
        said = harness.refused(*ATTACH, "--ca-file", ca_file)
    assert "is not trusted (IP address mismatch, certificate is not valid for '127.0.0.1'" in said


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), ("", "no certificate in PEM"), ("nonsense", "no certificate in PEM"),
     ("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "no certificate in PEM")],
    ids=["missing", "empty", "nonsense", "broken"],
)  # fmt: skip
def test_ca_file_that_cannot_be_used_is_one_sentence(
    harness: Harness, tmp_path: Path, content: str | None, reason: str
) -> None:
    harness.articles("one")
    harness.ok(*ATTACH)
    file = tmp_path / "broken.pem"
    if content is not None:
        file.write_text(content)
    sentence = f"the CA file {file} cannot be used ({reason if content is None else 'it holds ' + reason}); "
    sentence += "see PG_QWEN_EMBED_CA_FILE"
    harness.environment["PG_QWEN_EMBED_CA_FILE"] = str(file)
    for command in (ATTACH, ("worker",), ("search", "articles", "x")):
        assert harness.refused(*command) == sentence
    wrong = [one["text"] for one in json.loads(harness.cli("doctor", "--json").stdout) if one["state"] == "wrong"]
    assert wrong == [sentence]
    harness.ok("status")
    threads = threading.active_count()
    with pytest.raises(UsageError):
        Client(harness.url, server_url=harness.server.url, ca_file=str(file))
    assert threading.active_count() == threads


class Tunnel(socketserver.StreamRequestHandler):
    """An HTTP proxy for https: CONNECT, then bytes in both directions."""

    asked: list[str]

    def handle(self) -> None:
        _, target, _ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        self.asked.append(target)
        host, port = target.split(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(upstream, self.connection))
            back.start()
            _pump(self.connection, upstream)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_the_authority_is_asked_for_through_a_proxy_of_the_environment(secure: Harness, ca_file: str) -> None:
    Tunnel.asked = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        way = f"http://127.0.0.1:{proxy.server_address[1]}"
        env: dict[str, str | None] = {"HTTPS_PROXY": way, "https_proxy": way, "NO_PROXY": None, "no_proxy": None}
        try:
            assert "is not trusted" in secure.refused(*ATTACH, env=env)
            secure.ok(*ATTACH, "--ca-file", ca_file, env=env)
        finally:
            proxy.shutdown()
            thread.join()
    assert set(Tunnel.asked) == {secure.server.url.split("/")[2]}


def test_password_of_a_proxy_is_sent_and_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:p%40ss@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "elsewhere.example")
    told = {"Proxy-Authorization": f"Basic {base64.b64encode(b'me:p@ss').decode()}"}
    found = proxy_of("https://gpu.example/v1")
    assert (found.url, found.headers) == ("http://proxy.example:3128", told)
    assert "p@ss" not in repr(found)
    assert proxy_of("https://elsewhere.example/v1") == Proxy()
