import numpy as np
import pytest

from retrieval.build.build import build_index
from retrieval.index.index import Index, open_index
from retrieval.search.fusion import convex
from retrieval.search.ranking import Ranker

QUERY = "sleeping cats hunt at night"


@pytest.fixture
def index(tmp_path, corpus, fake) -> Index:
    build_index(tmp_path / "index", [corpus], fake)
    return open_index(tmp_path / "index")


def test_rank_equals_fusing_every_passage_of_a_small_index(fake, index):
    """With as many candidates as passages nothing is cut, so brute force must agree."""
    query_embedding = fake.encode_queries([QUERY])[0]
    sparse = index.sparse.scores(QUERY)
    fused = convex(index.dense.vectors(np.arange(3)) @ query_embedding, sparse)
    ranker = Ranker(sparse_weight=0.5, min_similarity=-1)
    ranking = ranker.rank(index, query_embedding, sparse)
    assert ranking.rows.tolist() == np.argsort(-fused, kind="stable").tolist()
    np.testing.assert_allclose(ranking.fused, np.sort(fused)[::-1], atol=1e-6)


def test_rank_unlike_passages_without_a_term_are_left_out(fake, index):
    query_embedding = fake.encode_queries([QUERY])[0]
    none = np.zeros(3, dtype=np.float32)
    cosines = index.dense.vectors(np.arange(3)) @ query_embedding
    middle = float(np.sort(cosines)[1])
    ranking = Ranker(min_similarity=middle).rank(index, query_embedding, none)
    assert sorted(ranking.rows.tolist()) == np.flatnonzero(cosines >= middle).tolist()


def test_read_gives_passages_scores_and_ranks(fake, index):
    query_embedding = fake.encode_queries([QUERY])[0]
    ranking = Ranker(min_similarity=-1).rank(index, query_embedding, index.sparse.scores(QUERY))
    hits = ranking.take(slice(2)).read(index)
    assert [hit.passage for hit in hits] == [
        index.passages[row] for row in ranking.rows[:2].tolist()
    ]
    assert [hit.rank for hit in hits] == [1, 2]
    assert [hit.scores.fused for hit in hits] == ranking.fused[:2].tolist()
    assert all(hit.scores.sparse is None or hit.scores.sparse > 0 for hit in hits)


def test_ranker_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="not one of convex, rrf, dense, sparse"):
        Ranker(fusion="magic")  # type: ignore[arg-type]
