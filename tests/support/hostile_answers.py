"""What a hostile or broken embedding server answers: attacks on memory and time, and answers at random from a grammar."""

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pybase64
from odd_server import MODEL, Reply, Request, base64, items, json_reply, reply, right

MEGABYTE = 1 << 20
JSON = "Content-Type: application/json\r\n"


async def _endless(head: bytes, part: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    yield head
    while True:
        yield part
        await asyncio.sleep(pause)


async def _compressed(gigabytes: int) -> AsyncIterator[bytes]:
    """JSON that is blank for gigabytes, in a few megabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin = packer.compress(b'{"data": [') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + JSON.encode() + b"Connection: close\r\n\r\n" + begin
    for _ in range(64 * gigabytes):
        yield block * 16


def _head(*lines: str, status: int = 200) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} OK", *lines, "", ""]).encode()


def _chunk(part: bytes) -> bytes:
    return f"{len(part):x}\r\n".encode() + part + b"\r\n"


ATTACKS: dict[str, Callable[[Request], Reply]] = {
    "gzip": lambda _: _compressed(4),
    "three gigabytes": lambda _: _endless(_head("Content-Length: 3000000000"), b" " * MEGABYTE),
    "no end": lambda _: _endless(_head("Connection: close"), b'{"data": [' + b"1," * MEGABYTE),
    "no end of chunks": lambda _: _endless(_head("Transfer-Encoding: chunked"), _chunk(b" " * MEGABYTE)),
    "a large error": lambda _: reply(json.dumps({"message": "x" * 30 * MEGABYTE}).encode(), 400),
    "an endless error": lambda _: _endless(_head("Connection: close", status=500), b"x" * MEGABYTE),
    "objects": lambda request: reply(b'{"data": [' + b"{}," * _room(request) + b"{}]}", headers=JSON),
    "lists": lambda request: reply(b'{"data": ' + b"[" * 900 + b"[]," * _room(request) + b"[]" + b"]" * 900 + b"}"),
    "no end of headers": lambda _: _endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: " + b"x" * 4000 + b"\r\n"),
    "a header without end": lambda _: _endless(b"HTTP/1.1 200 OK\r\nX-Header: ", b"x" * MEGABYTE),
    "no end of early answers": lambda _: _endless(b"", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * 1000),
    "cookies": lambda _: json_reply({}, headers="".join(f"Set-Cookie: c{n}={'x' * 4000}\r\n" for n in range(100))),
    "trickle": lambda _: _endless(_head("Content-Length: 100000"), b" ", pause=0.02),
    "trickle of headers": lambda _: _endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", pause=0.05),
}


def _room(request: Request) -> int:
    """How many objects of three bytes an answer may have."""
    return 3 * len(request.texts) * 60_000 if request.path.endswith("/embeddings") else 300_000


class Grammar:
    """`answer` a request at random: mostly odd, at times right. An answer that looks right has the right vectors."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def answer(self, request: Request) -> Reply:
        rng = self.rng
        if rng.random() < 0.1:
            return right(request)
        body = rng.choice([*[self._vectors] * 5, self._error, self._page, self._noise, self._json])(request)
        return self._sent(body)

    def _sent(self, body: bytes) -> Reply:  # noqa: C901  # one case for each way of sending
        rng = self.rng
        status = rng.choice(STATUSES)
        headers = "".join(rng.sample(HEADERS, rng.randrange(3)))
        if rng.random() < 0.15:
            headers += rng.choice(BROKEN_HEADERS)
        begin = f"HTTP/1.1 {status} OK\r\n{headers}"
        match rng.randrange(24):
            case 0:
                return gzip.compress(body)  # no HTTP at all
            case 1:
                return reply(gzip.compress(body), status, "Content-Encoding: gzip\r\n" + headers)
            case 2:
                return reply(
                    body, status, f"Content-Encoding: {rng.choice(['br', 'deflate', 'zstd', 'x'])}\r\n" + headers
                )
            case 3:  # closed before its end
                return self._parts(f"{begin}Content-Length: {len(body) + 9}\r\n\r\n".encode() + body)
            case 4:
                return self._parts(f"{begin}Transfer-Encoding: chunked\r\n\r\n".encode() + self._chunks(body))
            case 5:
                return self._parts(f"{begin}Connection: close\r\n\r\n".encode() + body)
            case 6:
                return self._parts(b"")
            case 7:
                return rng.randbytes(rng.randrange(1, 200))
            case 8:
                return f"HTTP/1.1 {rng.choice(['99', '1000', 'abc', '200 OK'])}\r\n\r\n".encode() + body
        return reply(body, status, headers)

    async def _parts(self, whole: bytes) -> AsyncIterator[bytes]:
        """In several pieces, some after a moment; then the connection is closed."""
        while whole:
            size = self.rng.randrange(1, len(whole) + 1)
            yield whole[:size]
            whole = whole[size:]
            await asyncio.sleep(self.rng.choice([0, 0, 0.001]))

    def _chunks(self, body: bytes) -> bytes:
        size = self.rng.randrange(1, len(body) + 2)
        chunks = b"".join(_chunk(body[n : n + size]) for n in range(0, len(body), size))
        return chunks + self.rng.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"", b"zz\r\n", b"0\r\nTrailer: x\r\n\r\n"])

    def _vectors(self, request: Request) -> bytes:
        """The right list of vectors, spoiled in a way that can be seen."""
        if not request.path.endswith("/embeddings"):
            return self._json(request)
        found: list[Any] = items(request.texts)
        for _ in range(self.rng.randrange(3)):
            self._spoil(found)
        answer: dict[str, Any] = {
            "data": found,
            "model": self.rng.choice([MODEL] * 16 + [None, 7, "other", "\x1b[2J" * 99]),
        }
        answer["usage"] = self.rng.choice(
            [{"prompt_tokens": 9}, {"prompt_tokens": -5}, {"prompt_tokens": True}, [], None]
        )
        if self.rng.random() < 0.1:
            answer[self.rng.choice(["error", "message", "data2"])] = self.rng.choice(
                [None, {}, {"message": "no", "code": 429}]
            )
        return json.dumps(answer).encode()

    def _spoil(self, found: list[Any]) -> None:
        rng = self.rng
        number = rng.randrange(len(found)) if found else 0
        match rng.randrange(9):
            case 0:
                found[number:] = found[number + 1 :]
            case 1 if found:
                found.append(found[number])
            case 2:
                rng.shuffle(found)
            case 3 if found and isinstance(found[number], dict):
                found[number] = found[number] | {"index": rng.choice([True, "0", None, 0.5, -1, 99, [0], 2**70])}
            case 4 if found and isinstance(found[number], dict):
                found[number] = found[number] | {"embedding": rng.choice(EMBEDDINGS)}
            case 5 if found and isinstance(found[number], dict):
                found[number] = {"embedding": found[number].get("embedding")} if rng.random() < 0.5 else {}
            case 6 if found:
                found[number] = rng.choice([None, 1, "x", [], True])
            case 7 if len(found) > 1 and all(isinstance(one, dict) and _is_whole(one) for one in found[:2]):
                found[:2] = self._uneven(*found[:2])

    def _uneven(self, one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
        """The last number of one item goes to the next one: together they have the right length."""
        first, second = (pybase64.b64decode(each["embedding"]) for each in (one, other))
        moved = first[:-4], first[-4:] + second
        texts = [pybase64.b64encode(raw).decode() for raw in moved]
        return [each | {"embedding": text} for each, text in zip((one, other), texts, strict=True)]

    def _error(self, _: Request) -> bytes:
        rng = self.rng
        said = rng.choice(
            ["no", "encoding_format is not supported", "\x1b[31m\u202e", "x" * rng.randrange(20_000), "", "<html>"]
        )
        nested: Any = rng.choice(
            [said, {"message": said, "code": rng.choice([400, "429", 500, "x", None, True])}, [said]]
        )
        key = rng.choice(["error", "detail", "message", "errors", "title"])
        return json.dumps({key: nested, "code": rng.choice([400, 200, None])}).encode()

    def _page(self, _: Request) -> bytes:
        tags = self.rng.choices(
            ["<html>", "<title>", "</title>", "<script>", "</p>", "Bad", "&amp;", "<!--", "\n", "<"], k=30
        )
        return "".join(tags).encode()

    def _noise(self, _: Request) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 100, 20_000]))

    def _json(self, _: Request) -> bytes:
        """Any JSON, and some that is nearly JSON."""
        return self.rng.choice(BODIES)


BODIES = [
    b"{}", b"[]", b"null", b'"text"', b"NaN", b'{"data": NaN}', b"[" * 5000, b'{"a":' * 2000, b'{"data": "\\ud800"}',
    b'{"data": [' + b"{}," * 2000 + b"{}]}", b'{"tokens": [[1.5]]}', b'{"text": [1]}', b'{"data": [{"id": 7}]}',
    b'{"data": [{"id": "\\u001b[2J"}]}', b'{"data": [{"id": "a"}, {"id": "b"}]}', b'{"data": 1e999}',
    b'{"max_req_input_len": true, "version": "\\u202e"}', b"\xff\xfe{}",
    b'{"weight_version": "' + b"w" * 999 + b'"}',
]  # fmt: skip
STATUSES = [200] * 40 + [201, 204, 206, 299, 301, 307, 304, 400, 400, 401, 404, 413, 422, 429, 500, 501, 502, 503, 599]


def _is_whole(item: dict[str, Any]) -> bool:
    embedding = item.get("embedding")
    return isinstance(embedding, str) and len(embedding) == len(base64(""))


HEADERS = [
    "Location: http://127.0.0.1:9/elsewhere\r\n", "Location: //\x07\r\n", "Location: http://[::1\r\n", "Retry-After: soon\r\n",
    "Retry-After: 0\r\n", "Retry-After: -1\r\n", "Retry-After: 99999999999999999999999 GMT\r\n", "Set-Cookie: a=b\r\n",
    "Content-Type: text/html\r\n", "Content-Encoding: identity\r\n", "Connection: close\r\n", "X-Large: " + "x" * 7000 + "\r\n",
]  # fmt: skip
BROKEN_HEADERS = [
    "Content-Type: \x00\r\n", "Content-Length: 5\r\n", "X-Too-Large: " + "x" * 20_000 + "\r\n", "no colon\r\n",
    "".join(f"X-{n}: y\r\n" for n in range(300)), "Transfer-Encoding: gzip\r\n", ": no name\r\n",
]  # fmt: skip
EMBEDDINGS: list[Any] = [
    None, "", "AAAA", "%", "ä", True, 7, [], {}, [1.0], ["1"] * 16, [None] * 16, [True] * 16, [1e300] * 16, [0.0] * 16, [0] * 16,
    [[1.0]] * 16, [1.0] * 17, "A" * 84 + "==", "AACAfw==" * 8, "AADAfw" + "A" * 80, [2**64] * 16, [-(2**63)] * 15 + [{}],
]  # fmt: skip
