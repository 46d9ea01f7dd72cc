"""The demo, as a first-time user runs it."""

import os
import re
import subprocess
import sys

import psutil
import pytest

from pg_qwen_embed.cli.demo import CHANGES, QUESTIONS


@pytest.mark.long
def test_demo_finds_what_it_asks_for_follows_its_changes_and_leaves_nothing_running() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG_QWEN_EMBED_")}
    command = [sys.executable, "-m", "pg_qwen_embed", "demo"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    for question, expected in QUESTIONS.items():
        answer = said.split(f'"{question}"', 1)[1].split("$ pg-qwen-embed", 1)[0]
        names = [line.split()[1] for line in answer.splitlines()[1:4]]
        assert expected in names, f"{question}: {names}"
    for verb, _, values, question in CHANGES:
        (milliseconds,) = re.findall(rf"{verb} of {values['name']}: its vector followed ([\d.]+) ms", said)
        assert float(milliseconds) < 1000
        assert f'asked "{question}": {values["name"]}' in said
    (folder,) = re.findall(r"host=(\S+)/pg18\b", said.splitlines()[0])
    assert not os.path.exists(folder)  # noqa: PTH110
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or ())]
    assert left == []
