"""How citations are judged, on hand-made cases and on a small file in SQuAD's form."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.citations.types import Citation, CitedSpan
from api.evaluation.answers import evaluate_answers
from api.evaluation.citations import Places, evaluate, held, load_places, read_cases
from retrieval.evaluation.evaluation import load_squad, load_squad_answers
from retrieval.reading.bounded import Unreadable
from tests.support.cli import run
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, live, settings_for

PARAGRAPHS = {
    "Peru": "Lima is the capital of Peru. It was founded in 1535 by Francisco Pizarro.",
    "France": "Paris is the capital of France. The Eiffel Tower was built in 1889 by Eiffel.",
    "Tea": "Green tea is brewed with water of eighty degrees. It is drunk in Japan and China.",
}
QUESTIONS = {
    "Peru": [("What is the capital of Peru?", "Lima"), ("When was Lima founded?", "1535")],
    "France": [
        ("What is the capital of France?", "Paris"),
        ("Who built the Eiffel Tower in 1889?", "Eiffel"),
    ],
    "Tea": [("Where is green tea drunk?", "Japan and China"), ("What is brewed?", "Green tea")],
}


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    articles = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": text,
                    "qas": [
                        {
                            "id": f"{title}-{n}",
                            "question": question,
                            "answers": [{"text": answer, "answer_start": text.index(answer)}],
                        }
                        for n, (question, answer) in enumerate(QUESTIONS[title])
                    ],
                }
            ],
        }
        for title, text in PARAGRAPHS.items()
    ]
    path = tmp_path_factory.mktemp("squad") / "squad.json"
    path.write_text(json.dumps({"data": articles}))
    return path


def citing(start: int, end: int, *, doc_id: str = "d", of: tuple[int, int] = (0, 11)) -> Citation:
    span = CitedSpan(n=1, doc_id=doc_id, passage_id=f"{doc_id}:0", start=start, end=end)
    return Citation(start=of[0], end=of[1], kind="inferred", score=1.0, sources=[span])


@pytest.mark.parametrize(
    ("citation", "expected"),
    [
        (citing(0, 20), [1.0]),
        (citing(5, 9), [1.0]),
        (citing(6, 20), [0.0]),
        (citing(0, 8), [0.0]),
        (citing(0, 20, doc_id="other"), [0.0]),
        (citing(0, 20, of=(0, 3)), []),
        (Citation(start=0, end=11, kind="unsupported", score=0.0, sources=[]), [None]),
    ],
)
def test_held_is_true_for_a_span_with_the_place_of_the_answer(
    citation: Citation, expected: list[float | None]
) -> None:
    assert held("It is LIMA.", [citation], ["Lima", "x y z"], Places("d", [(5, 9)])) == expected


def test_cases_have_the_gold_paragraph_and_a_foreign_sentence(squad: Path) -> None:
    cases = read_cases(squad)
    assert len(cases) == 6
    for case in cases:
        assert case.gold in case.sources
        assert case.foreign not in case.gold.text
        (span,) = case.places.spans
        assert case.gold.text[slice(*span)] == case.answer
    assert {case.sentence for case in cases} >= {
        "Lima is the capital of Peru.",
        "Eiffel built the Eiffel Tower in 1889.",
        "1535 was Lima founded.",
    }


def test_answer_without_its_place_is_refused(squad: Path, tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_text(squad.read_text().replace('"answer_start"', '"start"'))
    with pytest.raises(Unreadable, match="question Peru-0: an answer has no answer_start"):
        load_places(path)


def test_evaluate_counts_what_holds_and_what_misleads(squad: Path) -> None:
    report = evaluate(squad)
    assert report.n_questions == 6
    assert report.grounded["a sentence"][1].mean >= 0.8
    assert report.traps["a sentence, its paragraph is not there"].mean == 0.0
    assert report.to_table().count("\n| ") == 10


def test_eval_citations_prints_the_table(squad: Path) -> None:
    done = run("eval", "citations", str(squad), "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert "3 questions" in done.stdout and "| a sentence |" in done.stdout


@pytest.fixture(scope="module")
def served(
    squad: Path, _engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    from retrieval.build.build import build_index
    from retrieval.models.embedder import load_embedder

    directory = tmp_path_factory.mktemp("squad-index")
    embedder = load_embedder("sentence-transformers/all-MiniLM-L6-v2", threads=1)
    build_index(directory, [squad], embedder)
    embedder.close()
    with live(settings_for(_engine.url, directory)) as (client, _):
        yield client


@pytest.mark.parametrize(
    ("said", "precision", "recall"),
    [("Lima is the capital of Peru [1].", 1.0, 1.0), ("Lima is a fine place to be.", 0.0, 0.0)],
)
def test_answers_of_a_server_are_judged_with_their_citations(
    served: Client, engine: FakeEngine, squad: Path, said: str, precision: float, recall: float
) -> None:
    engine.script = saying([said])
    queries = {"Peru-0": load_squad(squad)[0]["Peru-0"]}
    report = evaluate_answers(
        lambda query: served.post("/query", {"query": query}).json(),
        queries,
        load_squad_answers(squad),
        load_places(squad),
    )
    assert (report.precision.mean, report.recall.mean) == (precision, recall)
    assert "citations: precision" in report.to_table()
