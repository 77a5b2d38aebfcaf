"""Do citations hold, and what do they cost: SQuAD, SciFact, microseconds.

python -m bench.citing [squad/dev-v1.1.json.gz scifact/]

Thresholds were set on every other of SQuAD's articles; the figures are of the others. SciFact's
claims are the second opinion: sentences of another kind, in biomedical words, with their abstract
and with the likeliest others; a claim that an abstract refutes stands there like one it supports.
"""

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import bm25s
import msgspec

from api.citations.citer import Citer
from api.evaluation.citations import Page, cite, evaluate_cases, figure, read_cases
from bench.support.sizes import SMOKE, at_size
from bench.support.small_data import write_scifact, write_squad
from bench.support.tables import print_header
from retrieval.evaluation.evaluation import load_qrels
from retrieval.reading.bounded import read_lines

DATA = ("../shared/data/squad/dev-v1.1.json.gz", "../shared/data/scifact")
N_CASES = at_size(300, 10)
N_PIECES = 80
N_OTHERS = 2


class Abstract(msgspec.Struct):
    id: str
    title: str
    text: str


def squad(path: Path) -> None:
    cases = read_cases(path)
    titles = sorted({case.gold.title for case in cases})
    held_out = set(titles[1::2])
    print(evaluate_cases([case for case in cases if case.gold.title in held_out]).to_table())


def scifact(folder: Path) -> None:
    """Share of claims that are held for supported by their abstract, by others, by random ones."""
    queries, qrels = load_qrels(folder)
    lines = read_lines(next(folder.glob("corpus.jsonl*")))
    abstracts = [msgspec.json.decode(line, type=Abstract) for _, line in lines]
    rows = {abstract.id: row for row, abstract in enumerate(abstracts)}
    ranking = bm25s.BM25()
    texts = [f"{abstract.title} {abstract.text}" for abstract in abstracts]
    ranking.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    drawn = random.Random(1)
    shares: dict[str, list[float]] = {"its abstract": [], "likeliest others": [], "random": []}
    for id, claim in queries.items():
        gold = [rows[doc_id] for doc_id, grade in qrels.get(id, {}).items() if grade > 0]
        if not gold:
            continue
        terms = bm25s.tokenize(claim, show_progress=False)
        found = ranking.retrieve(terms, k=10, show_progress=False)[0][0].tolist()
        others = [row for row in found if row not in gold][:N_OTHERS]
        chosen = {
            "its abstract": gold[:1],
            "likeliest others": others,
            "random": drawn.sample(range(len(abstracts)), N_OTHERS),
        }
        for name, picked in chosen.items():
            pages = [
                Page(n, abstracts[row].id, abstracts[row].title, abstracts[row].text)
                for n, row in enumerate(picked, 1)
            ]
            shares[name].append(float(any(each.sources for each in cite("", claim, pages))))
    print("\n| SciFact: sources | claims | held for supported |\n|---|---|---|")
    for name, share in shares.items():
        print(f"| {name} | {len(share)} | {figure(share)} |")


def cost(path: Path) -> None:
    """CPU time of an answer of 80 pieces, copied from three passages of 900 characters."""
    cases = read_cases(path, limit=N_CASES)
    spent: dict[str, list[float]] = {"passages new": [], "passages known": []}
    quiet: list[float] = []
    for case in cases:
        pages = [msgspec.structs.replace(page, text=page.text[:900]) for page in case.sources]
        said = " ".join(" ".join(page.text.split()[:27]) for page in pages)
        pieces = [f"{word} " for word in said.split()][:N_PIECES]
        for name in spent:
            started = time.process_time()
            citer = Citer(case.question, pages)
            for piece in pieces:
                citer.feed(piece)
            citer.finish()
            spent[name].append((time.process_time() - started) * 1e6)
        citer, started = Citer(case.question, pages), time.process_time()
        for _ in range(N_PIECES):
            citer.feed("word ")
        quiet.append((time.process_time() - started) * 1e6 / N_PIECES)
    print("\n| 80 tokens, 3 passages | µs of CPU, median |\n|---|---|")
    for name, each in spent.items():
        print(f"| {name} | {statistics.median(each):.0f} |")
    print(f"| a token that ends no sentence | {statistics.median(quiet):.2f} |")


def main() -> None:
    print_header()
    squad_file, scifact_folder = map(Path, sys.argv[1:] or DATA)
    with tempfile.TemporaryDirectory() as folder:
        if SMOKE:
            squad_file, scifact_folder = Path(folder) / "squad.json", Path(folder) / "scifact"
            write_squad(squad_file)
            write_scifact(scifact_folder)
        if not (squad_file.exists() and scifact_folder.exists()):
            sys.exit(f"no data at {squad_file} or {scifact_folder}: give the paths of both")
        squad(squad_file)
        scifact(scifact_folder)
        cost(squad_file)


if __name__ == "__main__":
    main()
