"""Corpora with right answers that need no annotator, from Debian packages: fetched by apt-get, cached, and never shipped.

packages: descriptions of Debian's packages; a question is a synopsis, in English or as Debian's translators have it. help: pages of
GNOME's help and of LibreOffice's; a question is a title. All texts end after 240 characters. The licences are their own: those of
the packages' metadata, CC-BY-SA-3.0 and MPL-2.0."""

import collections
import html
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

LANGUAGES = ("de", "fr", "es", "ja", "ru", "zh_CN")
LONGEST = 240  # characters of a document
SEED = 7
PACKAGES = 5_500  # so that a post-processing of 512 dimensions can be fitted
LIBREOFFICE, OF_LIBREOFFICE = 1000, 150
OF_A_LANGUAGE = 200  # questions about help pages
TOPICS = frozenset((
    "admin", "net", "science", "games", "sound", "graphics", "text", "web", "mail", "math", "editors", "video", "database",
    "electronics", "hamradio", "education", "fonts", "vcs", "comm", "utils", "tex", "kernel", "httpd", "news", "shells",
))  # fmt: skip
MALLARD = "{http://projectmallard.org/1.0/}"
MARKUP = re.compile(r"<(script|style|noscript)[^>]*>.*?</\1>|<[^>]+>", re.DOTALL)


@dataclass(frozen=True)
class Corpus:
    """documents: by their numbers, from 1. questions: by language, each with the numbers of its right documents."""

    name: str
    documents: Sequence[str]
    questions: dict[str, list[tuple[str, list[int]]]] = field(default_factory=dict)


def corpora(cache: Path) -> Iterator[Corpus]:
    """Raises CalledProcessError without apt."""
    cache.mkdir(parents=True, exist_ok=True)
    yield _help(_Help(cache))
    yield _packages(_Lists(cache / "apt"))


# Help pages.


class _Help:
    """The files of the packages with help, unpacked in the cache."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.gnome = self._unpacked("gnome-user-docs") / "usr/share/help"

    def libreoffice(self, language: str) -> dict[str, tuple[str, str]]:
        """Title and text of each page, by its path."""
        root = self._unpacked(f"libreoffice-help-{language.lower().replace('_', '-')}")
        (base,) = (one for one in root.glob("usr/share/libreoffice/help/*") if (one / "text").is_dir())
        found = {}
        for file in sorted((base / "text").rglob("*.html")):
            page = file.read_text(encoding="utf-8", errors="replace")
            title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
            head = html.unescape(title[1]).strip() if title else ""
            begin = page.find('id="DisplayArea"')
            body = page[page.find(">", begin) + 1 :].partition("<footer")[0] if begin > 0 else page
            text = " ".join(html.unescape(MARKUP.sub(" ", body)).split())
            first = head.partition("|")[0].strip()
            while first and text.lower().startswith(first.lower()):  # a title that is repeated proves nothing
                text = text[len(first) :].strip()
            if head and len(text) > 60:
                found[str(file.relative_to(base / "text"))] = head, text
        return found

    def gnome_pages(self, language: str) -> dict[str, tuple[str, str]]:
        base, found = self.gnome / language, {}
        for folder in ("gnome-help", "system-admin-guide"):
            for file in sorted((base / folder).glob("*.page")):
                root = _parsed(file.read_text(encoding="utf-8"))
                title = root.find(f"{MALLARD}title") if root is not None else None
                if root is None or title is None or root.get("type") != "topic":
                    continue
                parts = [_plain(one) for one in root if one.tag not in (f"{MALLARD}info", f"{MALLARD}title")]
                text = " ".join(parts).strip()
                if len(text) > 80:
                    found[str(file.relative_to(base))] = _plain(title), text
        return found

    def _unpacked(self, package: str) -> Path:
        folder = self._cache / package
        if not folder.is_dir():
            options = ["-oAPT::Sandbox::User=root"]
            subprocess.run(["apt-get", "-qq", *options, "download", package], check=True, cwd=self._cache)
            (file,) = self._cache.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", file, folder], check=True)
            file.unlink()
        return folder


def _help(files: _Help) -> Corpus:
    chosen = random.Random(SEED)
    pages = {one: files.gnome_pages(one) for one in ("C", *LANGUAGES)}
    others = {one: files.libreoffice(one) for one in ("en-us", *LANGUAGES)}
    own, more = list(pages["C"]), sorted(chosen.sample(sorted(others["en-us"]), LIBREOFFICE))
    texts = [*(pages["C"][one][1] for one in own), *(others["en-us"][one][1] for one in more)]
    documents = [text[:LONGEST] for text in texts]
    same: dict[str, list[int]] = collections.defaultdict(list)
    for number, document in enumerate(documents, 1):
        same[document].append(number)
    titles = collections.Counter(others["en-us"][one][0] for one in more)
    alone = [n for n, one in enumerate(more) if titles[t := others["en-us"][one][0]] == 1 and len(t.split()) >= 3]
    asked = chosen.sample(alone, OF_LIBREOFFICE)
    corpus = Corpus("help", documents)
    for language in ("C", *LANGUAGES):
        english = language == "C"
        theirs = others["en-us" if english else language]
        found = [
            (pages[language][one][0], same[documents[n]])
            for n, one in enumerate(own)
            if one in pages[language] and (english or pages[language][one][0] != pages["C"][one][0])
        ]
        found += [
            (theirs[more[n]][0], same[documents[len(own) + n]])
            for n in asked
            if more[n] in theirs and (english or theirs[more[n]][0] != others["en-us"][more[n]][0])
        ]
        if not english:
            found = chosen.sample(found, min(len(found), OF_A_LANGUAGE))
        corpus.questions["en" if english else language] = found
    return corpus


def _parsed(text: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(re.sub(r"&(?!amp;|lt;|gt;|quot;|apos;|#)\w+;", "", text))  # noqa: S314  # Debian's files
    except ElementTree.ParseError:
        return None


def _plain(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


# Descriptions of packages.


class _Lists:
    """Debian's lists of packages, with the descriptions in several languages."""

    def __init__(self, folder: Path) -> None:
        self._lists = folder / "lists"
        if not any(self._lists.glob("*i18n_Translation-de*")):
            options = [
                f"Dir::State::lists={self._lists}",
                f"Dir::Cache={folder}/cache",
                f"Acquire::Languages={','.join(('en', *LANGUAGES))}",
                "APT::Sandbox::User=root",
            ]
            for part in ("lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "-qq", *(f"-o{one}" for one in options), "update"], check=True)

    def described(self, language: str) -> dict[str, tuple[str, str, str]]:
        """The checksum of the English description, synopsis and text of each package."""
        found = {}
        for stanza in self._largest(f"*_main_i18n_Translation-{language.replace('_', '%5f')}*").split("\n\n"):
            one = re.match(r"Package: (\S+)\nDescription-md5: (\S+)\nDescription-\S+: ([^\n]*)\n?((?: .*\n?)*)", stanza)
            if one:
                found[one[1]] = one[2], one[3].strip(), " ".join(one[4].replace("\n .\n", "\n").split())
        return found

    def sections(self) -> dict[str, str]:
        found = {}
        for stanza in self._largest("*_main_binary-*_Packages*").split("\n\n"):
            name, section = (re.search(rf"^{one}: (\S+)", stanza, re.MULTILINE) for one in ("Package", "Section"))
            if name and section:
                found[name[1]] = section[1]
        return found

    def _largest(self, pattern: str) -> str:
        """Of the release itself, not of its updates."""
        file = max(self._lists.glob(pattern), key=lambda one: one.stat().st_size)
        read = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", file], capture_output=True, check=True)
        return read.stdout.decode(errors="replace")


def _packages(lists: _Lists) -> Corpus:
    chosen = random.Random(SEED)
    english, sections = lists.described("en"), lists.sections()
    translated = {language: lists.described(language) for language in LANGUAGES}

    def is_translated(package: str, language: str) -> bool:
        own = translated[language].get(package)
        return own is not None and own[0] == english[package][0] and own[1] != english[package][1]

    beginnings: set[str] = set()
    pool = []
    for package, (_, synopsis, text) in sorted(english.items()):
        short = len(text) < 120 or len(synopsis) < 15
        if sections.get(package) not in TOPICS or short or text[:200] in beginnings:
            continue
        beginnings.add(text[:200])
        pool.append(package)
    pool.sort(key=lambda package: (-sum(is_translated(package, one) for one in LANGUAGES), chosen.random()))
    packages = sorted(pool[:PACKAGES])
    numbers = {package: n for n, package in enumerate(packages, 1)}
    corpus = Corpus("packages", [english[package][2][:LONGEST] for package in packages])
    corpus.questions["en"] = [(english[one][1], [numbers[one]]) for one in chosen.sample(packages, 350)]
    for language in LANGUAGES:
        there = [one for one in packages if is_translated(one, language)]
        own = chosen.sample(there, min(120, len(there)))
        corpus.questions[language] = [(translated[language][one][1], [numbers[one]]) for one in own]
    return corpus
