"""A real SGLang on the CPU, our `serve` and the fake SGLang, side by side.

SGLANG_PYTHON is a Python into which requirements.txt is installed; `make test-sglang` makes one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fake_sglang import FakeSGLang
from harness import eventually
from real import HERE, START, Starting, served, sglang
from subject import KEY, Subject

OPEN = ("sglang", "serve", "fake")
LOCKED = tuple(f"{name} with a key" for name in OPEN)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Starting]]:
    """`plain` shortens vectors and has priorities; `strict` does not, wants a key and takes no more than 8 inputs at once."""
    if "SGLANG_PYTHON" not in os.environ:
        pytest.fail("SGLANG_PYTHON is not set; run: make test-sglang")
    folder = tmp_path_factory.mktemp("sglang")
    model = folder / "tiny"
    subprocess.run([os.environ["SGLANG_PYTHON"], str(HERE / "tiny_model.py"), str(model)], check=True, timeout=300)
    abilities = ("--json-model-override-args", '{"is_matryoshka": true}', "--enable-priority-scheduling")
    with (
        sglang(model, folder, "plain", *abilities) as plain,
        sglang(model, folder, "strict", "--max-queued-requests", "8", "--api-key", KEY, key=KEY) as strict,
    ):
        both = {"plain": plain, "strict": strict}
        eventually(lambda: all(list(map(Starting.ready, both.values()))), deadline=START)
        yield both
        for starting in both.values():  # both, before one is waited for: it takes seconds
            starting.process.terminate()


@pytest.fixture(scope="session")
def subjects(servers: dict[str, Starting], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Subject]]:
    """The servers under the contract: `sglang` sets it, the others keep it."""
    with ExitStack() as stack:
        url = stack.enter_context(served(tmp_path_factory.mktemp("serve")))
        folder = tmp_path_factory.mktemp("locked")
        (folder / "key").write_text(KEY, encoding="utf-8")
        locked = stack.enter_context(served(folder, "--api-key-file", str(folder / "key")))
        fake = stack.enter_context(FakeSGLang(context_length=512).running())
        fake_with_key = stack.enter_context(FakeSGLang(api_key=KEY).running())
        ours = Subject(url, "", 0, 0)
        yield {
            "sglang": servers["plain"].subject,
            "serve": ours.introduced(),
            "fake": Subject(fake.url.removesuffix("/v1"), "", 0, 0).introduced(),
            "sglang with a key": servers["strict"].subject,
            "serve with a key": Subject(locked, "", 0, 0, KEY).introduced(),
            "fake with a key": Subject(fake_with_key.url.removesuffix("/v1"), "", 0, 0, KEY).introduced(),
        }


@pytest.fixture(params=OPEN)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    return subjects[request.param]


@pytest.fixture(params=LOCKED)
def locked(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    return subjects[request.param]


@pytest.fixture(params=OPEN + LOCKED)
def any_subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    return subjects[request.param]
