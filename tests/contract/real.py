"""Servers as processes: a real SGLang on the CPU, and our own."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness import eventually
from subject import Subject

HERE = Path(__file__).parent
START = 300.0  # seconds until the server must be ready
OPTIONS = ("--host", "127.0.0.1")


@dataclass
class Starting:
    """A starting SGLang, and what /ready has answered so far."""

    subject: Subject
    process: "subprocess.Popen[bytes]"
    log: Path
    answers: list[int | None] = field(default_factory=list)

    def ready(self) -> bool:
        """Whether it is ready. Fails if the process has ended."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            answer = self.subject.get("/ready").status
        except OSError:
            answer = None
        if not self.answers or self.answers[-1] != answer:
            self.answers.append(answer)
        return answer == 200


@contextmanager
def sglang(
    model: Path, folder: Path, name: str, *options: str, key: str | None = None, embeds: bool = True
) -> Iterator[Starting]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [os.environ["SGLANG_PYTHON"], str(HERE / "launch.py"), "--model-path", str(model), "--port", str(port)]
    if embeds:
        command.append("--is-embedding")
    log = folder / f"{name}.log"
    # One thread: those of several servers would wait for each other. TMPDIR: SGLang leaves its sockets behind.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *OPTIONS, *options], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        yield Starting(Subject(f"http://127.0.0.1:{port}", str(model), 64, 512, key), process, log)
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):  # stopped while it starts, it leaves its children behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """Run our own server. Yields its URL."""
    log = folder / "serve.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "pg_qwen_embed", "serve", "--port", "0", *options]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield eventually(lambda: re.search(r"on (http://\S+)/v1", log.read_text()), deadline=60)[1]
    finally:
        process.terminate()
        process.wait()
