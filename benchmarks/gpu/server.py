"""SGLang as a process, with the flags that `pg-qwen-embed sglang-command` prints, and a model for it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pg_qwen_embed.inference import launch

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests" / "contract"


def model(wanted: Namespace, folder: Path) -> str:
    """The folder or name to serve: the given one, or a model made here with random weights."""
    if wanted.model_path:
        return str(wanted.model_path)
    if wanted.shape == "tiny":
        command = [str(TESTS / "tiny_model.py"), str(folder)]
    else:
        command = [str(HERE / "make_model.py"), str(folder), "--shape", wanted.shape, "--device", wanted.device,
                   "--seed", str(wanted.seed)]  # fmt: skip
    subprocess.run([wanted.sglang_python, *command], check=True, timeout=600, stdout=sys.stderr)
    return str(folder)


def flags(wanted: Namespace, path: str, memory: float | None, port: int) -> list[str]:
    """The flags that `sglang-command` prints for a model of this size; on a CPU, without those that the launcher sets."""
    name = wanted.model_path or f"Qwen/Qwen3-Embedding-{wanted.shape}"
    known = memory if name in launch.MODELS else None
    chosen = [
        replace(flag, value=path) if flag.name == "--model-path" else flag
        for flag in launch.flags(name, known, "127.0.0.1", port)
        if not (wanted.device == "cpu" and flag.name == "--dtype")
    ]
    return [word for flag in chosen for word in (flag.name, flag.value) if word is not None]


@contextmanager
def sglang(wanted: Namespace, path: str, memory: float | None, log: Path) -> Iterator[tuple[str, list[str]]]:
    """Run SGLang. Yields its base URL and its flags; ends all its processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = [*flags(wanted, path, memory, port), *wanted.more]
    start = [str(TESTS / "launch.py")] if wanted.device == "cpu" else ["-m", "sglang.launch_server"]
    environment = os.environ | {"TMPDIR": str(log.parent)}  # it leaves its sockets behind
    with log.open("wb") as file:
        process = subprocess.Popen(
            [wanted.sglang_python, *start, *given], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/ready", log, wanted.start_timeout)
        yield f"http://127.0.0.1:{port}/v1", given
    finally:
        _end(process)


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"SGLang did not become ready:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):  # stopped while it starts, it leaves its children behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
