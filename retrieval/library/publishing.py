"""Build a new index generation from the library, one process at a time, and end the jobs it holds.

A process takes DIR/.publisher.lock, reads the uploaded files that wait, and builds. If it dies the
lock is free again, and the next one sees by the change numbers what is not built yet.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from retrieval.build.build import BuildReport, build_documents
from retrieval.index.disk import holding
from retrieval.index.index import current_generation, list_generations
from retrieval.library.files import has_files
from retrieval.library.jobs import begin, finish
from retrieval.library.library import Library
from retrieval.library.uploads import read_waiting
from retrieval.reading.documents import Skipped
from retrieval.types import (
    IndexCorrupt,
    IndexUnwritable,
    Language,
    Progress,
    TextEmbedder,
    ignore_progress,
)

LOCK = ".publisher.lock"


def only_publisher(index_dir: Path) -> AbstractContextManager[None]:
    """Hold the publisher's lock. Raises IndexBusy while another process or thread has it,
    IndexUnwritable."""
    return holding(index_dir / LOCK, busy=f"the index in {index_dir} is being built; try again")


def has_changes(library: Library) -> bool:
    """Whether any change or uploaded file is in no generation yet."""
    seq, built = library.clock()
    # A process that died between the swap and `note_built` has built more than the clock says.
    return has_files(library) or seq > max(built, _seq_on_disk(library.index_dir))


def publish(
    library: Library,
    embedder: TextEmbedder,
    *,
    language: Language,
    skipped: Sequence[Skipped] = (),
    on_progress: Progress = ignore_progress,
) -> BuildReport | None:
    """Build what changed, then end its jobs: for a process that does not serve the index itself.

    As `build_changes`.
    """
    report = build_changes(
        library, embedder, language=language, skipped=skipped, on_progress=on_progress
    )
    announce(library)
    return report


def build_changes(
    library: Library,
    embedder: TextEmbedder,
    *,
    language: Language,
    skipped: Sequence[Skipped] = (),
    on_progress: Progress = ignore_progress,
) -> BuildReport | None:
    """Build a generation of all documents in the library; None where there are none.

    The jobs stay open: a process that serves calls `announce` once it has opened the generation,
    so that who sees a job end also finds its documents. `on_progress` may raise to stop. Raises
    IndexBusy, IndexUnwritable, and what an embedder raises; then the old generation serves on and
    the changes wait.
    """
    with only_publisher(library.index_dir):
        require_whole(library)
        read_waiting(library, lambda: on_progress("read", 0, 0))
        # After the files, which become documents; what comes from here on waits for the next build.
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
        # After the swap: a crash in between leaves a generation whose number `has_changes` sees.
        library.note_built(seq)
    return built


def announce(library: Library) -> None:
    """End the jobs whose documents the serving generation holds."""
    finish(library, serving(library.index_dir))


def serving(index_dir: Path) -> str | None:
    """Name of the generation that serves; None where there is none or the pointer is damaged."""
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
