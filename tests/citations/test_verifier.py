"""A model's opinion on citations: taken, in time, and never at the price of the answer."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.answering.events import ScoresOut, Source
from api.citations.citer import Citer
from api.citations.types import Citation
from api.citations.verifier import (
    BATCH,
    MOST_PAIRS,
    CitationVerifier,
    Unverified,
    load_citation_verifier,
)
from retrieval.types import ModelUnavailable
from tests.retrieval.tiny_models import break_tokenizer, save_cross_encoder
from tests.support.caching import caching
from tests.support.engine import FakeEngine, saying
from tests.support.harness import QUESTION, frames, live, settings_for
from tests.support.servers import RedisServer

ANSWER = "Lima is the capital of Peru [1]. It is home to millions. Nobody lives there [2]."
TEXTS = ("Lima is the capital of Peru.", "Ten million people call the city their own.")
SOURCES = [
    Source(
        n=n,
        doc_id=f"{n}.md",
        passage_id=f"{n}.md:0",
        title="",
        text=text,
        start=100 * n,
        end=100 * n + len(text),
        scores=ScoresOut(None, None, 1.0),
    )
    for n, text in enumerate(TEXTS, 1)
]


class Model:
    """Says yes to the pairs that it is told of, as a cross-encoder would."""

    def __init__(self, *yes: tuple[str, str]) -> None:
        self.asked: list[tuple[str, str]] = []
        self.waits: threading.Event | None = None
        self._yes = yes

    def predict(self, pairs: list[tuple[str, str]], **_: Any) -> np.ndarray:
        if self.waits is not None:
            self.waits.wait(20)
        self.asked += pairs
        scores = [
            0.9 if any(e in evidence and c in claim for e, c in self._yes) else 0.1
            for evidence, claim in pairs
        ]
        return np.array([[1 - score, score] for score in scores])


def by_words() -> list[Citation]:
    citer = Citer("What is the capital of Peru?", SOURCES)
    return citer.feed(ANSWER) + citer.finish()


def verified(model: Any, *, within_s: float = 20) -> list[Citation]:
    verifier = CitationVerifier(model, entails=1)
    try:
        return asyncio.run(verifier.verified(ANSWER, by_words(), SOURCES, within_s=within_s))
    finally:
        if isinstance(model, Model) and model.waits is not None:
            model.waits.set()
        verifier.close()


def test_model_confirms_finds_and_refuses() -> None:
    assert [citation.kind for citation in by_words()] == ["cited", "unsupported", "unsupported"]
    model = Model(("capital", "capital"), ("Ten million", "millions"))
    first, second, third = verified(model)
    assert (first.kind, first.sources) == ("cited", by_words()[0].sources)
    assert (second.kind, [span.n for span in second.sources]) == ("inferred", [2])
    assert (second.sources[0].start, second.sources[0].end) == (200, 200 + len(TEXTS[1]))
    assert (third.kind, third.sources) == ("unsupported", [])
    assert all("[" not in claim for _, claim in model.asked)


def test_model_that_sees_no_support_takes_a_citation_back() -> None:
    assert [citation.kind for citation in verified(Model())] == ["unsupported"] * 3


def test_named_source_that_the_model_finds_is_cited() -> None:
    assert verified(Model(("Ten million", "Nobody")))[2].kind == "cited"


def test_model_that_is_late_or_breaks_is_unverified() -> None:
    late = Model()
    late.waits = threading.Event()
    with pytest.raises(Unverified, match="time"):
        verified(late, within_s=0.05)
    with pytest.raises(Unverified, match="AttributeError"):
        verified(object())


def denies_all(count: int) -> list[Citation]:
    """`count` sentences that words support, as a model sees them that supports none."""
    sentence = "Lima is the capital of Peru [1]. "
    citer = Citer("What is the capital of Peru?", SOURCES)
    citations = [*citer.feed(sentence * count), *citer.finish()]
    verifier = CitationVerifier(Model(), entails=1)
    try:
        checked = verifier.verified(sentence * count, citations, SOURCES, within_s=20)
        return asyncio.run(checked)
    finally:
        verifier.close()


def test_long_answer_is_judged_whole_or_not_at_all() -> None:
    assert {citation.kind for citation in denies_all(MOST_PAIRS)} == {"unsupported"}
    with pytest.raises(Unverified, match="too much"):
        denies_all(MOST_PAIRS + 1)


def test_scores_that_are_not_finite_are_no_verdict() -> None:
    model = Model()
    model.predict = lambda pairs, **_: np.full((len(pairs), 2), np.nan)  # type: ignore[method-assign]
    with pytest.raises(Unverified, match="finite"):
        verified(model)


def test_batches_after_one_that_broke_are_dropped() -> None:
    """The second one runs already when the caller hears of the first; the others must not."""
    sizes: list[int] = []
    heard = threading.Event()

    class Broken:
        def predict(self, pairs: list[tuple[str, str]], **_: Any) -> np.ndarray:
            sizes.append(len(pairs))
            if len(sizes) > 1:
                heard.wait(20)
            if pairs == [("after", "all")]:
                return np.zeros((1, 2))
            raise RuntimeError("CUDA")

    async def judged() -> None:
        verifier = CitationVerifier(Broken(), entails=1)
        many = by_words() * 12  # 60 pairs: four batches
        try:
            with pytest.raises(Unverified, match="RuntimeError"):
                await verifier.verified(ANSWER, many, SOURCES, within_s=20)
            heard.set()
            await verifier._owner.submit(("after", "all"))
        finally:
            heard.set()
            await asyncio.to_thread(verifier.close)

    asyncio.run(judged())
    assert sum(sizes) <= 2 * BATCH + 1 < 60


def inference_model(path: Path, labels: list[str]) -> str:
    save_cross_encoder(path, num_labels=len(labels))
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = dict(enumerate(labels))
    config["label2id"] = {label: n for n, label in enumerate(labels)}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@pytest.fixture
def closing() -> Iterator[list[CitationVerifier]]:
    opened: list[CitationVerifier] = []
    yield opened
    for verifier in opened:
        verifier.close()


def test_load_takes_one_score_or_the_column_of_entailment(
    tmp_path: Path, closing: list[CitationVerifier]
) -> None:
    save_cross_encoder(tmp_path / "one")
    nli = inference_model(tmp_path / "nli", ["contradiction", "ENTAILMENT", "neutral"])
    for path in (str(tmp_path / "one"), nli):
        closing.append(load_citation_verifier(path))
    assert [verifier._entails for verifier in closing] == [0, 1]
    good, bad = closing[0]._score([("good good good", "good"), ("cats", "dogs")])
    assert good > 0.9 > bad
    assert closing[1]._score([("cats", "dogs")]) == pytest.approx([1 / 3])


def test_load_refuses_labels_without_entailment(tmp_path: Path) -> None:
    path = inference_model(tmp_path / "m", ["cold", "warm", "hot"])
    with pytest.raises(ModelUnavailable, match="entailment"):
        load_citation_verifier(path)


def test_load_refuses_what_cannot_be_run(tmp_path: Path) -> None:
    save_cross_encoder(tmp_path / "crashing")
    break_tokenizer(tmp_path / "crashing")
    n_threads = threading.active_count()
    with pytest.raises(ModelUnavailable, match="does not judge"):
        load_citation_verifier(str(tmp_path / "crashing"))
    assert threading.active_count() == n_threads


def test_answer_is_judged_by_the_model_of_the_settings(
    engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    engine.script = saying(["Paris is the capital", " of France [1]."])
    path = inference_model(tmp_path / "m", ["contradiction", "entailment", "neutral"])
    settings = settings_for(engine.url, index_dir, citations={"verifier_model": path})
    with live(settings) as (client, _):
        plain = client.post("/query", QUESTION).json()
        stream = frames(client.post("/query/stream", QUESTION).body)
    assert [citation["kind"] for citation in plain["citations"]] == ["unsupported"]
    assert plain["degraded"] == []
    assert [frame.event for frame in stream][-2:] == ["citation", "done"]


def test_model_that_breaks_costs_neither_the_answer_nor_the_cache_its_truth(
    engine: FakeEngine, index_dir: Path, tmp_path: Path, valkey: RedisServer
) -> None:
    engine.script = saying(["Paris is the capital", " of France [1]."])
    path = tmp_path / "m"
    save_cross_encoder(path)
    models = {"citations": {"verifier_model": str(path)}}
    with caching(engine, index_dir, valkey, **models) as (client, app):
        working = app.service.citation_verifier._model
        app.service.citation_verifier._model = None
        broken = client.post("/query", QUESTION).json()
        stream = frames(client.post("/query/stream", QUESTION).body)
        app.service.citation_verifier._model = working
        mended = client.post("/query", QUESTION).json()
        hit = client.post("/query", QUESTION).json()
    assert (broken["degraded"], mended["degraded"]) == (["citations_unverified"], [])
    assert [citation["kind"] for citation in broken["citations"]] == ["cited"]
    assert stream[-1].data["degraded"] == ["citations_unverified"]
    assert (stream[-2].event, stream[-1].data["cache"]["kind"]) == ("citation", "none")
    assert [each["cache"]["kind"] for each in (mended, hit)] == ["none", "exact"]
