"""An answer as it stands on the wire, for the API pages; a test keeps it to the schema."""

from litestar.openapi.spec import Example

ANSWER = Example(
    summary="A question about two pages on Peru and tea",
    value={
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 155, "completion_tokens": 8, "estimated": False},
        "cost_eur": 0.00009,
        "latency_ms": {
            "auth": 0.03, "cache": 0.09, "embed": 14.2, "sparse": 0.11, "dense": 0.08,
            "fuse": 0.2, "prompt": 0.05, "queue": 0.01,
            "first_token": 812.4, "generation": 951.0, "total": 967.1,
        },
        "degraded": [],
        "request_id": "0b3ae687ef1f4a7bb04a98533728da21",
        "engine": "embedded",
        "model": "SmolLM2-135M-Instruct",
        "index_generation": "20261122T172239-8ddf12",
        "cache": {"kind": "none", "similarity": None, "age_s": None,
                  "entry_id": "5d0c21f5be8b4f7d8a1de2c45b61fc02:0f5a4c1d9a3e7b6624c8d1e2"},
        "dropped_markers": 0,
        "citations": [
            {
                "start": 0,
                "end": 32,
                "kind": "cited",
                "score": 1.0,
                "sources": [
                    {"n": 1, "doc_id": "lima.md", "passage_id": "lima.md:0", "start": 8, "end": 36}
                ],
            }
        ],
        "answer": "Lima is the capital of Peru [1].",
        "sources": [
            {
                "n": 1,
                "doc_id": "lima.md",
                "passage_id": "lima.md:0",
                "title": "Peru",
                "text": "# Peru\n\nLima is the capital of Peru.",
                "start": 0,
                "end": 36,
                "scores": {"dense": 0.71, "sparse": 1.22, "fused": 1.0, "rerank": None},
            }
        ],
    },
)  # fmt: skip
