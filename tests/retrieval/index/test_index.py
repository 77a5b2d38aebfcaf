import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from retrieval.build.build import build_index
from retrieval.index.index import (
    MANIFEST,
    current_generation,
    list_generations,
    open_index,
    read_manifest,
)
from retrieval.search.retriever import Retriever
from retrieval.types import IndexCorrupt, IndexMismatch, IndexMissing
from tests.retrieval.fakes import FakeEmbedder


@pytest.fixture
def index_dir(tmp_path, corpus, fake) -> Path:
    build_index(tmp_path / "index", [corpus], fake)
    return tmp_path / "index"


def generation_dir(index_dir: Path) -> Path:
    return index_dir / "generations" / str(current_generation(index_dir))


def test_open_missing_index_says_how_to_build_one(tmp_path):
    with pytest.raises(IndexMissing, match="build one with: ragrelay index PATH…"):
        open_index(tmp_path)
    assert current_generation(tmp_path) is None


def test_open_gives_manifest_and_passages(index_dir, fake):
    index = open_index(index_dir, embedder=fake)
    assert index.generation == current_generation(index_dir)
    assert index.manifest.counts == type(index.manifest.counts)(documents=3, passages=3, skipped=0)
    assert [index.passages[row].doc_id for row in range(3)] == ["cats.md", "dogs.txt", "owls.txt"]
    assert len(index) == len(index.dense) == len(index.sparse) == 3
    index.close()


def test_open_flipped_byte_in_any_file_raises_index_corrupt(index_dir, fake):
    directory = generation_dir(index_dir)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) == len(read_manifest(index_dir, directory.name).files) + 1
    for path in files:
        good = path.read_bytes()
        for at in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            if good[at : at + 1].isspace() and path.name == MANIFEST:
                continue  # between the tokens of JSON nothing is lost
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises((IndexCorrupt, IndexMismatch)):
                open_index(index_dir)
        path.write_bytes(good)
    open_index(index_dir).close()


def test_open_cut_or_missing_file_raises_even_without_verifying(index_dir):
    for path in [path for path in generation_dir(index_dir).rglob("*") if path.is_file()]:
        good = path.read_bytes()
        path.write_bytes(good[:-1] if path.name != MANIFEST else good[:-20])
        with pytest.raises(IndexCorrupt):
            open_index(index_dir, verify=False)
        path.unlink()
        with pytest.raises(IndexCorrupt):
            open_index(index_dir, verify=False)
        path.write_bytes(good)


def test_open_other_model_raises_index_mismatch_with_the_command(index_dir):
    for change in ({"model_id": "other/model"}, {"revision": "feed"}, {"dim": 4}):
        other = FakeEmbedder()
        vars(other).update(change)
        with pytest.raises(IndexMismatch, match="rebuild it with: ragrelay index PATH…"):
            open_index(index_dir, embedder=other)
        with pytest.raises(IndexMismatch):
            Retriever(other, open_index(index_dir))


def test_open_other_format_version_raises_index_mismatch(index_dir):
    path = generation_dir(index_dir) / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"format_version": 3', b'"format_version": 4'))
    with pytest.raises(IndexMismatch, match="index format 4"):
        open_index(index_dir)


def test_open_index_of_a_language_asks_in_it(tmp_path, corpus, fake):
    (corpus / "haus.txt").write_text("Die Häuser wurden verkauft.")
    build_index(tmp_path / "index", [corpus], fake, language="german")
    index = open_index(tmp_path / "index")
    assert index.manifest.sparse.language == "german"
    assert (index.sparse.scores("Haus") > 0).sum() == 1
    assert not build_index(tmp_path / "index", [corpus], fake, language="none").unchanged


@pytest.mark.parametrize("pointer", ["", "../../etc", ".building-x", "a b", "\xff"])
def test_open_damaged_pointer_raises_index_corrupt(index_dir, pointer):
    (index_dir / "CURRENT").write_text(pointer, encoding="latin-1")
    with pytest.raises(IndexCorrupt):
        open_index(index_dir)


def test_open_pointer_to_nothing_raises_index_corrupt(index_dir):
    shutil.rmtree(generation_dir(index_dir))
    with pytest.raises(IndexCorrupt):
        open_index(index_dir)


def test_opened_index_serves_on_after_its_files_are_pruned(index_dir, corpus, fake):
    index = open_index(index_dir)
    retriever = Retriever(fake, index)
    for number in range(3):
        (corpus / "new.txt").write_text(f"Something new {number}")
        build_index(index_dir, [corpus], fake)
    assert index.generation not in {manifest.id for manifest in list_generations(index_dir)}
    hits = asyncio.run(retriever.retrieve("postman bark", 1)).hits
    assert hits[0].passage.doc_id == "dogs.txt"


def test_manifest_holds_what_the_readme_promises(index_dir, fake):
    raw = msgspec.json.decode((generation_dir(index_dir) / MANIFEST).read_bytes())
    assert raw["embedding"] == {"model_id": fake.model_id, "revision": fake.revision, "dim": 8}
    assert raw["format_version"] == 3
    assert raw["splitter"] == {"max_tokens": 200, "overlap": 32, "limit": 256}
    assert raw["dense"] == {
        "kind": "flat", "nlist": 0, "nprobe": 0, "recall": 1.0, "sample": 0,
        "trained": 0, "added": 0,
    }  # fmt: skip
    assert raw["seq"] == 0
    assert raw["sparse"] == {"language": "english", "method": "lucene", "k1": 1.5, "b": 0.75}
    assert set(raw["files"]) >= {"dense.faiss", "passages.msgpack", "sparse/vocab.index.json"}
