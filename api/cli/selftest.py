"""`ragrelay selftest`: check that torch, FAISS and BM25 work together in one process here.

torch and FAISS each bring an OpenMP runtime; two of them in one process can crash it (exit code
139). Each order of import runs in a process of its own, so a crash is reported as a line.
"""

import importlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import click

NATIVE = ("torch", "faiss")
"""Each brings an OpenMP runtime."""
THREADS = 4
ROUNDS = 20
TIMEOUT_S = 300


@click.command()
def selftest() -> None:
    """Check that torch, FAISS and BM25 work together here.

    Tries each order of import, with several threads.
    """
    failures = _try_orders()
    for order, reason in failures:
        click.echo(f"imported as {order}: {reason}", err=True)
    if failures:
        sys.exit(1)
    click.echo("torch, FAISS and BM25 work together here")


def _try_orders() -> list[tuple[str, str]]:
    """Return (order, reason) of each order of import that failed."""
    failures = []
    for order in permutations(NATIVE):
        name = " ".join(order)
        command = [sys.executable, "-X", "faulthandler", "-m", "api.cli.selftest", *order]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            failures.append((name, f"hangs: did not end within {TIMEOUT_S} s"))
            continue
        if done.returncode < 0:
            failures.append((name, f"killed by {signal.Signals(-done.returncode).name}"))
        elif done.returncode:
            failures.append((name, done.stderr.strip().splitlines()[-1]))
    return failures


def exercise(order: list[str]) -> None:
    """Import in this order, then embed, rerank and search from several threads at once."""
    for module in order:
        importlib.import_module(module)
    import bm25s
    import faiss
    import numpy as np
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    config = BertConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128,
    )  # fmt: skip
    config.num_labels = 1
    encoder = BertModel(config)
    encoder.train(False)
    reranker = BertForSequenceClassification(config)
    reranker.train(False)
    passages = np.random.default_rng(0).standard_normal((2000, 64), dtype=np.float32)
    dense = faiss.IndexFlatIP(64)
    dense.add(passages)
    words = [[f"word{n % 50}", f"word{n % 7}"] for n in range(2000)]
    sparse = bm25s.BM25()
    sparse.index(words, show_progress=False)

    def work(_: int) -> None:
        with torch.inference_mode():
            tokens = torch.randint(0, 1000, (8, 64))
            read = encoder(tokens).last_hidden_state
            assert reranker(tokens).logits.shape == (8, 1)
        queries = read[:, 0].contiguous().numpy()
        assert dense.search(queries, 10)[1].shape == (8, 10)
        found = sparse.retrieve([["word3", "word5"]], k=10, show_progress=False)
        assert found.documents.shape == (1, 10)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(ROUNDS)))


if __name__ == "__main__":
    exercise(sys.argv[1:])
