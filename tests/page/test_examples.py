"""Questions to begin with, made of the titles of passages."""

from pathlib import Path

import pytest

from api.http.routes.page import LONGEST_TITLE, MOST_EXAMPLES, example_questions, visible_rows
from retrieval.build.build import build_documents
from retrieval.index.filters import View
from retrieval.index.index import open_index
from retrieval.types import Document
from tests.retrieval.fakes import FakeEmbedder
from tests.support.harness import Client


@pytest.mark.parametrize(
    ("titles", "questions"),
    [
        (["Tea"], ["What is “Tea” about?"]),
        (
            ["Tea", "Tea > Green tea"],
            ["What does “Tea” say about “Green tea”?", "What is “Tea” about?"],
        ),
        (["Help > How long?"], ["How long?"]),
        (["Tea > Table > a | b", "", " > ", "x" * (LONGEST_TITLE + 1)], []),
        (["Tea", "Tea", "Milk"], ["What is “Tea” about?", "What is “Milk” about?"]),
    ],
)  # fmt: skip
def test_examples_of_titles(titles: list[str], questions: list[str]) -> None:
    assert example_questions(titles) == questions


def test_examples_are_few_and_of_many_documents() -> None:
    titles = [f"{document} > {section}" for document in "AB" for section in "cdefg"]
    questions = example_questions(titles)
    assert len(questions) == MOST_EXAMPLES
    assert sum("“A”" in question for question in questions) == MOST_EXAMPLES // 2


def test_examples_need_no_more_than_reading(client: Client) -> None:
    examples = client.get("/page/examples").json()
    assert examples["passages"] == 3
    assert len(examples["questions"]) == 3


def test_examples_show_no_other_tenant_and_nothing_deleted(tmp_path: Path) -> None:
    documents = [
        Document("ours", "Ours", "green tea", tenant="a"),
        Document("theirs", "Theirs", "black tea", tenant="b"),
        Document("secret", "Secret", "white tea", tenant="a", acl=("board",)),
        Document("gone", "Gone", "red tea", tenant="a"),
    ]
    build_documents(tmp_path, documents, FakeEmbedder())
    index = open_index(tmp_path)
    index.hidden = {"gone"}
    rows = visible_rows(index, View(tenant="a", groups=(), all_groups=False))
    assert [index.passages[int(row)].title for row in rows] == ["Ours"]
    index.close()
