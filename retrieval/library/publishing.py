"""From the library to a generation: by one process at a time, and only when there is a change.

Whoever holds DIR/.publisher.lock reads the files that wait and builds; its death frees the lock,
and the next one finds by the change numbers what was left undone.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from retrieval.build.build import BuildReport, build_documents
from retrieval.index.disk import holding
from retrieval.index.index import current_generation, list_generations
from retrieval.index.sparse import Language
from retrieval.library.jobs import begin, finish, has_files
from retrieval.library.library import Library
from retrieval.library.uploads import read_waiting
from retrieval.reading.documents import Skipped
from retrieval.types import IndexCorrupt, IndexUnwritable, Progress, TextEmbedder

LOCK = ".publisher.lock"


def only_publisher(index_dir: Path) -> AbstractContextManager[None]:
    """Raises IndexBusy while another process or thread publishes, IndexUnwritable."""
    return holding(index_dir / LOCK, busy=f"the index in {index_dir} is being built; try again")


def has_changes(library: Library) -> bool:
    """Whether anything waits that no generation holds."""
    seq, built = library.clock()
    return has_files(library) or seq > max(built, _seq_on_disk(library.index_dir))


def publish(
    library: Library,
    embedder: TextEmbedder,
    *,
    language: Language,
    skipped: Sequence[Skipped] = (),
    on_progress: Progress | None = None,
) -> BuildReport | None:
    """Build a generation of all that the library holds; None where that is nothing.

    `on_progress` may raise to stop. Raises IndexBusy, IndexUnwritable, and what an embedder
    raises; then the old generation serves on and the changes wait. Who calls this says in the
    jobs that they are done (`announce`), once it serves the new generation itself.
    """
    with only_publisher(library.index_dir):
        require_whole(library)
        report = on_progress or _silent
        read_waiting(library, lambda: report("read", 0, 0))
        seq, documents = library.snapshot()
        begin(library, seq)
        built = None
        if documents:
            built = build_documents(
                library.index_dir,
                documents,
                embedder,
                seq=seq,
                skipped=skipped,
                on_progress=on_progress,
                language=language,
            )
        library.note_built(seq)
    return built


def announce(library: Library) -> None:
    """End the jobs whose documents the serving generation holds."""
    finish(library, serving(library.index_dir))


def serving(index_dir: Path) -> str | None:
    try:
        return current_generation(index_dir)
    except IndexCorrupt:
        return None


def require_whole(library: Library) -> None:
    """Refuse to replace an index that was made without a library by a few new documents."""
    generations = list_generations(library.index_dir)
    if generations and generations[0].seq == 0 and not _has_paths(library):
        raise IndexUnwritable(
            f"the index in {library.index_dir} was built before documents were kept beside it;"
            " run `ragrelay index PATH…` once more"
        )


def _has_paths(library: Library) -> bool:
    with library.look() as db:
        found = db.execute("SELECT 1 FROM documents WHERE origin = 'paths' LIMIT 1").fetchone()
    return found is not None


def _seq_on_disk(index_dir: Path) -> int:
    return max((manifest.seq for manifest in list_generations(index_dir)), default=0)


def _silent(stage: str, done: int, total: int) -> None:
    pass
