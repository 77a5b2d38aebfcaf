"""Indexes a folder and prints what became of it and the most memory it took, as JSON.

python -m tests.retrieval.reading.parsing.index_folder INDEX_DIR FOLDER
"""

import resource
import sys
from contextlib import closing

import msgspec

from retrieval.build.build import build_index
from retrieval.index.index import open_index
from tests.retrieval.fakes import FakeEmbedder


class Outcome(msgspec.Struct):
    indexed: list[str]
    skipped: list[tuple[str, str]]
    before_mib: int
    """Most memory this process had when it began."""
    own_mib: int
    """Most memory it ever had."""
    parser_mib: int
    """Most memory that any parser process had."""


def main(index_dir: str, folder: str) -> None:
    before = _most_mib(resource.RUSAGE_SELF)
    report = build_index(index_dir, [folder], FakeEmbedder())
    own, parser = _most_mib(resource.RUSAGE_SELF), _most_mib(resource.RUSAGE_CHILDREN)
    with closing(open_index(index_dir)) as index:
        indexed = {index.passages[row].doc_id for row in range(len(index))}
    outcome = Outcome(
        indexed=sorted(indexed),
        skipped=[(skip.path, skip.reason) for skip in report.skipped],
        before_mib=before,
        own_mib=own,
        parser_mib=parser,
    )
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


def _most_mib(who: int) -> int:
    return resource.getrusage(who).ru_maxrss >> 10


if __name__ == "__main__":
    main(*sys.argv[1:])
