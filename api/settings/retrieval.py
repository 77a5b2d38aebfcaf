"""What can be set of retrieval: models, ranking, index."""

from typing import Annotated, Literal

from msgspec import Meta

from api.settings.types import Group, Model, read_model
from retrieval.types import Language


class RetrievalSettings(Group, frozen=True, kw_only=True):
    index_dir: Annotated[
        str, Meta(min_length=1, description="Where generations of the index lie")
    ] = "index"
    embedding_model: Annotated[
        str,
        Meta(
            min_length=1,
            description="Hub id (NAME@COMMIT for another commit than the tested or newest) or "
            "folder; changing it needs `ragrelay index` once more",
        ),
    ] = "sentence-transformers/all-MiniLM-L6-v2"
    backend: Annotated[
        Literal["auto", "torch", "onnx"],
        Meta(
            description="What computes embeddings: onnx exports the model once (extra onnx); "
            "auto takes an export that is there"
        ),
    ] = "auto"
    device: Annotated[
        Literal["cpu", "cuda", "mps"], Meta(description="Where embedding and reranking run")
    ] = "cpu"
    rerank_model: Annotated[
        str, Meta(description="CrossEncoder that orders the best passages anew; empty: none")
    ] = ""
    language: Annotated[
        Language, Meta(description="Stemming and stop words of BM25; `ragrelay index` applies it")
    ] = "english"
    fusion: Annotated[
        Literal["convex", "rrf"],
        Meta(description="How the BM25 and the dense ranking become one"),
    ] = "convex"
    sparse_weight: Annotated[
        float, Meta(ge=0, le=1, description="Share of BM25 in convex fusion; 0 is dense alone")
    ] = 0.35
    min_similarity: Annotated[
        float,
        Meta(
            ge=-1,
            le=1,
            description="Cosine below which a passage without a matching word is no hit",
        ),
    ] = 0.3

    @property
    def embedding(self) -> Model:
        return read_model(self.embedding_model)

    @property
    def reranking(self) -> Model:
        return read_model(self.rerank_model)
