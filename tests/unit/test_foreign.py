"""Foreign words: one line, bounded, nothing for a terminal to obey; a server's own words, without documents and markup."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.foreign import SENTENCE, escaped, shown
from pg_qwen_embed.inference.words import DOCUMENT, without_documents, words_of

any_text = st.text(st.characters())
hostile = st.one_of(any_text, st.text("ab \t\r\n\x00\x07\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200f\ud800\\"))


@given(hostile, st.integers(10, 60))
def test_what_is_shown_is_one_bounded_line_of_printable_characters(text: str, most: int) -> None:
    line = shown(text, most)
    assert len(line) <= most
    assert len(line.splitlines()) <= 1
    assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not [
        c
        for c in line
        if unicodedata.bidirectional(c) in ("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    line.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=SENTENCE))
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text
    assert escaped(text) == text


def test_a_terminal_obeys_nothing_that_is_shown() -> None:
    assert shown("a\x1b[2Jb\x07 \x9b31m \u202eevil\n\tlast") == "a\\x1b[2Jb\\x07 \\x9b31m \\u202eevil last"
    assert escaped("one\ntwo\r", keep="\n") == "one\ntwo\\x0d"


def test_a_hundred_megabytes_are_shown_without_reading_them_all() -> None:
    assert shown(" " * 100_000_000 + "late") == "..."
    assert shown("x" * 1000) == "x" * (SENTENCE - 3) + "..."


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('{"object": "error", "message": "flat", "code": 400}', "flat"),
        ('{"error": {"message": "nested", "type": "x"}}', "nested"),
        ('{"error": "Unauthorized"}', "Unauthorized"),
        ('{"detail": "quota used up"}', "quota used up"),
        (
            '{"detail": [{"loc": ["body"], "msg": "too many", "input": "the text"}, {"msg": "too long"}]}',
            "too many; too long",
        ),
        ('{"errors": [{"title": "in a list"}]}', "in a list"),
        ('{"message": "<html><head><title>413 Too Large</title></head><body>x</body></html>"}', "413 Too Large"),
        ("<html>\r\n<head><title>502 Bad\nGateway</title></head><body><h1>502</h1></body></html>", "502 Bad Gateway"),
        ("<!DOCTYPE html><body><script>alert(1)</script><p>Log in &amp; go on</p>", "Log in & go on"),
        ('{"message": "beginning of a long answ', "beginning of a long answ"),
        ('{"object": "error", "message": "line\\none and a', "line one and a"),
        ("plain\n words", "plain words"),
        ('{"code": 7}', ""),
        ("[]", ""),
        ("", ""),
        ("null", ""),
    ],
)
def test_the_words_of_a_server_are_found_in_each_form_of_error(answer: str, words: str) -> None:
    assert words_of(answer) == words


@given(hostile)
def test_no_answer_is_too_odd_for_words(answer: str) -> None:
    assert isinstance(words_of(answer), str)


DOCUMENT_TEXT = "The quick brown fox jumps over the lazy dog, and the dog\n\n does not mind it at all."


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (f"invalid input: {' '.join(DOCUMENT_TEXT.split())}", f"invalid input: {DOCUMENT}"),
        ("invalid 'quick brown fox jumps over the lazy dog, and' at 7", f"invalid '{DOCUMENT}' at 7"),
        ("the dog is too long", "the dog is too long"),
    ],
)
def test_an_echo_of_the_document_is_left_out(words: str, left: str) -> None:
    assert without_documents(words, ["another text of this request", DOCUMENT_TEXT]) == left


def test_a_short_document_is_left_out_as_a_whole_and_a_word_of_it_is_not() -> None:
    assert without_documents("cannot embed 'secret salary'", ["secret salary"]) == f"cannot embed '{DOCUMENT}'"
    assert without_documents("cannot embed a text", ["text"]) == "cannot embed a text"


def test_an_echo_of_a_text_that_repeats_itself_is_left_out() -> None:
    words = without_documents("wrong: " + "confidential words " * 50, ["confidential words " * 20_000])
    assert "confidential" not in words.replace(DOCUMENT, "")
