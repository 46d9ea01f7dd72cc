"""A request for the vector of a query, as a session places it in its locks: checked, decrypted, and read. Pure.

The words are those of sql/query.sql: two of a nonce, two of a keyed checksum, then the encrypted payload, which is the
generation (4 bytes), the beginning of the instruction's hash (8) and the text. The checksum and the key stream depend on
the process id of the session, so a request that another session copies is none."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

BEFORE_PAYLOAD = 4  # words
BEFORE_TEXT = 12  # bytes
LONGEST = 1000  # bytes of a text
DOORS = 64  # of a generation
BLOCK = 32  # bytes of key stream from one hash


@dataclass(frozen=True, slots=True)
class Placed:
    """What one session holds. number: of the header's lock. length: bytes of the payload. words: None if they are known."""

    pid: int
    number: int
    length: int
    words: Sequence[int] | None

    @property
    def id(self) -> int:
        """Tells this request from others, while its session holds it."""
        return self.pid << 32 | self.number


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """pid: of the session. nonce: with which an error is answered. instruction: the beginning of its hash."""

    pid: int
    nonce: bytes
    generation: int
    instruction: bytes
    text: str

    def key(self, instruction: str) -> bytes:
        """Under which the vector is kept, made with this instruction."""
        return sha256(struct.pack(">i", self.generation) + digest(instruction) + self.text.encode()).digest()

    @property
    def door(self) -> int:
        """The number of the lock at which the session waits."""
        return self.generation * DOORS + self.pid % DOORS

    def is_made_for(self, instruction: str) -> bool:
        return digest(instruction).startswith(self.instruction)


def digest(instruction: str) -> bytes:
    return sha256(instruction.encode()).digest()


def read(placed: Placed, secret: bytes) -> QueryRequest | None:
    """The request; None for locks of other origin: forged, copied, or an application's own."""
    words, length = placed.words or (), placed.length
    count = (length + 3) // 4
    if not BEFORE_TEXT < length <= BEFORE_TEXT + LONGEST or len(words) != BEFORE_PAYLOAD + count:
        return None
    written = struct.pack(f">{len(words)}I", *words)
    nonce, checksum, encrypted = written[:8], written[8:16], written[16:]
    bound = struct.pack(">i", placed.pid) + nonce
    payload = _decrypted(encrypted, secret, bound)[:length]
    if sha256(secret + b"\x02" + sha256(bound + payload).digest()).digest()[:8] != checksum:
        return None
    generation, instruction = struct.unpack(">i8s", payload[:BEFORE_TEXT])
    try:
        return QueryRequest(placed.pid, nonce, generation, instruction, payload[BEFORE_TEXT:].decode())
    except UnicodeDecodeError:
        return None


def _decrypted(encrypted: bytes, secret: bytes, bound: bytes) -> bytes:
    blocks = range((len(encrypted) + BLOCK - 1) // BLOCK)
    stream = b"".join(sha256(secret + b"\x01" + bound + struct.pack(">i", number)).digest() for number in blocks)
    size = len(encrypted)
    return (int.from_bytes(encrypted) ^ int.from_bytes(stream[:size])).to_bytes(size)
