"""Questions that are made of rows, and files with questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain import question_file
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.question_file import File, Judged
from pg_qwen_embed.domain.questions import (
    Item,
    by_first_sentence,
    by_title,
    drawn,
    judged,
    known_items,
    title_column,
)

REST = "It holds more than forty characters, so that something is left to be found."


def test_a_title_is_the_question_and_its_document_stays_as_it_is() -> None:
    assert by_title(REST, "How to  hold\nmore") == Item(REST, "How to hold more")


def test_a_title_is_taken_out_of_its_document_wherever_it_stands() -> None:
    item = by_title(f"HOW to\nhold more. {REST} See how to hold more.", "How to hold more")
    assert item is not None
    assert "hold more" not in item.document.lower().replace("it holds more", "")
    assert REST in item.document


@pytest.mark.parametrize("title", [None, "", "two words", "x" * 400, "one " * 200])
def test_a_row_without_a_useful_title_stays_as_a_document(title: str | None) -> None:
    assert by_title(REST, title) == Item(REST)


def test_a_document_that_would_be_empty_without_its_title_makes_no_question() -> None:
    assert by_title("How to hold more", "How to hold more") == Item("How to hold more")


@pytest.mark.parametrize("document", [None, "", " \n "])
def test_a_row_without_a_document_takes_no_part(document: str | None) -> None:
    assert by_title(document, "How to hold more") is None
    assert by_first_sentence(document) is None


@pytest.mark.parametrize(
    ("document", "question", "rest"),
    [
        (f"Who holds the most? {REST}", "Who holds the most?", REST),
        (f"A title without an end\n\n{REST}", "A title without an end", REST),
        (f"如何重新设置我的密码？{REST}", "如何重新设置我的密码？", REST),
        (f"パスワードを変更する方法。{REST}", "パスワードを変更する方法。", REST),
    ],
)
def test_the_first_sentence_is_the_question_and_the_rest_the_document(document: str, question: str, rest: str) -> None:
    assert by_first_sentence(document) == Item(rest, question)


@pytest.mark.parametrize("document", ["Version 2.0 of it", REST, f"Yes. {REST}", "One two three. And four."])
def test_a_document_without_a_useful_first_sentence_stays_whole(document: str) -> None:
    assert by_first_sentence(document) == Item(document)


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_is_an_error(document: str, title: str) -> None:
    for item in (by_title(document, title), by_first_sentence(document)):
        assert item is None or item.document.strip()


def test_equal_questions_are_asked_once_and_equal_documents_are_all_right() -> None:
    items = [Item("a", "q"), Item("b", "q"), Item("c", "r"), Item("a"), Item("d")]
    found = {one.text: set(one.grades) for one in known_items(items)}
    assert found == {"q": {0, 1, 3}, "r": {2}}


def test_a_question_without_a_right_document_is_left_out() -> None:
    found = judged([("q", 1, 0), ("q", 2, 3), ("r", 1, 0)])
    assert [(one.text, dict(one.grades)) for one in found] == [("q", {1: 0, 2: 3})]


def test_a_title_is_a_column_that_is_no_part_of_the_document() -> None:
    assert title_column(["id", "name", "subject", "body"], ["body"]) == "name"
    assert title_column(["id", "title", "name", "body"], ["title", "body"]) == "name"
    assert title_column(["id", "title", "body"], ["title", "body"]) is None


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(100, 10, 3) == drawn(100, 10, 3) != drawn(100, 10, 4)
    assert len(set(drawn(100, 10, 3))) == 10


# Files


def read(path: str, text: str, *key: str) -> list[Judged]:
    return question_file.pairs(File("--queries", path, text), key or ("id",))


PAIRS = [Judged(2, "how to, then", ("7",)), Judged(3, "where", ("8",), 2)]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("q.csv", 'query,key,grade\n"how to, then",7,1\nwhere,8,2\n'),
        ("q.csv", '\ufeffgrade,id,query\r\n1,7,"how to, then"\r\n2,8,where\r\n'),
        ("Q.TSV", "query\tid\tgrade\nhow to, then\t7\t1\nwhere\t8\t2"),
        ("q.jsonl", '\n{"query": "how to, then", "key": 7}\n{"query": "where", "id": "8", "grade": 2}\n'),
    ],
)
def test_every_form_of_a_file_has_the_same_pairs(path: str, text: str) -> None:
    assert read(path, text) == PAIRS


def test_a_key_of_several_columns_has_a_value_for_each() -> None:
    assert read("q.jsonl", '{"query": "a", "key": ["de", 1]}', "lang", "id")[0].key == ("de", "1")
    assert read("q.csv", 'query,lang,id\na,"de,x",1', "lang", "id")[0].key == ("de,x", "1")
    assert read("q.csv", 'query,key\na,"de,1"', "lang", "id")[0].key == ("de", "1")


def test_a_key_column_may_be_called_key() -> None:
    assert read("q.csv", "query,key\na,1", "key")[0].key == ("1",)


def test_a_text_that_postgresql_cannot_hold_is_replaced() -> None:
    (one,) = read("q.jsonl", '{"query": "a\\u0000b", "key": 1}')
    assert one.query == "a\ufffdb"


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("q.txt", "a", "its name ends in none of .csv, .tsv and .jsonl"),
        ("q.csv", "", "it has no question"),
        ("q.csv", "query,key\n", "it has no question"),
        ("q.csv", "question,key\na,1", "line 1: the first line names no column query"),
        ("q.csv", "query,key\na,1\nb", "line 3: it has 1 columns, and the first line names 2"),
        ("q.csv", 'query,key\n"a,1', "line 2: it cannot be read"),
        ("q.csv", "query,key\n ,1", "line 2: it has no text as its query"),
        ("q.csv", "query,key\na,", "line 2: it has no key"),
        ("q.csv", "query,other\na,1", "line 2: it has no key; the key is id"),
        ("q.csv", "query,key,grade\na,1,good", "line 2: its grade is no whole number"),
        ("q.jsonl", '{"query": "a", "key": 1}\nnothing', "line 2: it is no JSON"),
        ("q.jsonl", "[1]", "line 1: it is no object"),
        ("q.jsonl", '{"query": 5, "key": 1}', "line 1: it has no text as its query"),
        ("q.jsonl", '{"query": "a", "key": [1, 2]}', "line 1: it has no key; the key is id"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_its_line(path: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(path, text)
    assert str(raised.value).startswith(f"--queries {path}")
    assert sentence in str(raised.value)


QUERIES = File("--queries", "q.tsv", "id\tquery\n1\thow\n2\twhere\n")


def of_trec(text: str, *key: str) -> list[Judged]:
    return question_file.judgments(File("--judgments", "qrels.txt", text), QUERIES, key or ("id",))


def test_judgments_are_those_of_trec() -> None:
    assert of_trec("1 0 7 2\n\n2\tQ0\t8\t0\n") == [Judged(1, "how", ("7",), 2), Judged(3, "where", ("8",), 0)]
    assert of_trec("1 0 de,7 1", "lang", "id")[0].key == ("de", "7")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 0 7", "line 1: it has 3 fields; a judgment is: question 0 key grade"),
        ("1 0 7 1\n3 0 7 1", "line 2: --queries q.tsv has no question with the id 3"),
        ("1 0 7 x", "line 1: its grade is no whole number"),
        ("", "it has no question"),
    ],
)
def test_a_mistake_in_judgments_is_one_sentence_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match="--judgments") as raised:
        of_trec(text)
    assert sentence in str(raised.value)


def test_questions_of_judgments_have_ids() -> None:
    with pytest.raises(UsageError, match="line 2: it has no id"):
        question_file.judgments(File("--judgments", "j", "1 0 7 1"), File("--queries", "q.csv", "query\nhow"), ("id",))
