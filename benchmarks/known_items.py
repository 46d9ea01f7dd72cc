"""Corpora of pairs: a question, and the one document that it is about. The question is the document's title, kept out of it.

stdlib: docstrings of Python's standard library, the first paragraph against the rest. debian: descriptions of Debian's packages,
the synopsis against the long text; apt-get brings the list of the release that the machine has. manpages: Chinese man pages
(the package manpages-zh), the line of NAME against the first part of the text. Nothing is shipped: all licences are their own."""

import gzip
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pg_qwen_embed.demo.corpus import documents

SEED = 1
LONGEST = 4000  # characters of a document
LONGEST_PAGE = 300  # of a man page: the multilingual model reads slowly
CHINESE = re.compile("[\u4e00-\u9fff]")

Pair = tuple[str, str]


def corpus(name: str, most: int) -> list[Pair]:
    """Up to `most` pairs, chosen by chance with a fixed seed; each question once. Raises CalledProcessError without apt."""
    pairs = {"stdlib": _stdlib, "debian": _debian, "manpages": _manpages}[name]()
    once = {question: text.replace(question, " ") for question, text in pairs}
    chosen = sorted(once.items())
    random.Random(SEED).shuffle(chosen)
    return chosen[:most]


def _stdlib() -> Iterator[Pair]:
    for document in documents():
        first, _, rest = document.doc.partition("\n\n")
        question, text = " ".join(first.split()), " ".join(rest.split())
        if 15 <= len(question) <= 200 and len(text) >= 120:
            yield question, text[:LONGEST]


def _debian() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"Dir::State::lists={folder}/lists",
            f"Dir::Cache={folder}/cache",
            "Acquire::Languages=en",
            "APT::Sandbox::User=root",
        ]
        for part in ("lists/partial", "cache/archives/partial"):
            Path(folder, part).mkdir(parents=True)
        subprocess.run(["apt-get", "-qq", *(f"-o{one}" for one in options), "update"], check=True)
        lists = sorted(Path(folder, "lists").glob("*_main_i18n_Translation-en*"), key=lambda one: one.stat().st_size)
        file = lists[-1]  # the largest: of the release itself, not of its updates
        read = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", file], capture_output=True, check=True)
    texts: set[str] = set()
    for stanza in read.stdout.decode(errors="replace").split("\n\n"):
        found = re.search(r"Description-en: ([^\n]*)\n((?: .*\n?)*)", stanza)
        text = " ".join(found[2].replace("\n .\n", "\n").split()) if found else ""
        if found and len(text) >= 150 and text[:200] not in texts:
            texts.add(text[:200])
            yield found[1].strip(), text[:LONGEST]


def _manpages() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "-qq", "download", "manpages-zh"], check=True, cwd=folder)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, f"{folder}/all"], check=True)
        for file in sorted(Path(folder, "all").glob("usr/share/man/zh_CN/man*/*.gz")):
            name, *sections = _sections(gzip.decompress(file.read_bytes()).decode(errors="replace"))
            title = re.search(r"(?:-|—|–)\s*(.+)$", name)
            text = " ".join(sections)[:LONGEST_PAGE]
            if title and len(CHINESE.findall(title[1])) >= 4 and len(CHINESE.findall(text)) >= 60:
                yield title[1].strip(), text


def _sections(page: str) -> list[str]:
    """The text of NAME, then those of the other sections, without the marks of roff."""
    found = re.split(r"^\.\s*S[Hh]\s+", page, flags=re.MULTILINE)[1:]
    name = next((one for one in found if re.match(r'"?(NAME|名称|名字|名稱)', one)), "")
    return [_plain(name), *(_plain(one) for one in found if one is not name)]


def _plain(section: str) -> str:
    text = section.partition("\n")[2]  # without its heading
    text = re.sub(r"^[.']\\\".*$|^\.(SH|SS)\s+.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\f[BIRP1-4]|\\f\(..|\\[&|c]|\\s[-+]?\d", "", text)
    text = re.sub(r"\\\(..|\\\[[^\]]*\]", " ", text).replace("\\-", "-").replace("\\e", "\\")
    return " ".join(re.sub(r"^\.[A-Za-z]{1,3}\b ?", "", text, flags=re.MULTILINE).replace('"', " ").split())
