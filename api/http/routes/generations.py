"""GET /generations and POST /generations/rollback: which index serves, and back to one before."""

import asyncio
from pathlib import Path

import msgspec
from litestar import Router, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from api.admission.limits import ONE
from api.errors import Conflict, ErrorBody, IndexNotWritable, NotFound
from api.http.admit import admitting
from api.http.body import JSONRequest
from api.http.openapi import ERROR_RESPONSES
from api.http.schemas import Request
from api.runtime.service import Service
from retrieval.index.generations import rollback
from retrieval.index.index import list_generations
from retrieval.library.publishing import serving
from retrieval.types import IndexBusy, IndexCorrupt, IndexMissing, IndexUnwritable


class GenerationOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    created_at: str
    documents: int
    passages: int
    embedding_model: str
    is_current: bool


class GenerationList(msgspec.Struct, frozen=True):
    generations: list[GenerationOut]
    """Newest first."""
    current: str | None


class RollbackRequest(Request, frozen=True, kw_only=True):
    generation: str | None = None
    """The newest that is not current where none is named."""


class RolledBack(msgspec.Struct, frozen=True):
    current: str


@get(
    "/generations",
    before_request=admitting("admin", "admin", ONE),
    summary="The generations of the index that are kept",
    responses=ERROR_RESPONSES,
)
async def get_generations(state: State) -> GenerationList:
    return await asyncio.to_thread(_list, _index_dir(state.service))


@post(
    "/generations/rollback",
    status_code=200,
    before_request=admitting("admin", "admin", ONE),
    summary="Serve a generation from before; what was deleted stays deleted",
    responses={
        **ERROR_RESPONSES,
        404: ResponseSpec(ErrorBody, generate_examples=False, description="No such generation"),
        409: ResponseSpec(ErrorBody, generate_examples=False, description="One is being written"),
    },
)
async def post_rollback(request: JSONRequest, data: JSONBody[RollbackRequest]) -> RolledBack:
    service: Service = request.app.state.service
    try:
        current = await asyncio.to_thread(rollback, _index_dir(service), data.generation)
    except (IndexMissing, IndexCorrupt) as exc:
        raise NotFound("generation: there is none, or it is damaged") from exc
    except IndexBusy as exc:
        raise Conflict("a new generation is being built; try again when it is done") from exc
    except IndexUnwritable as exc:
        raise IndexNotWritable(str(exc)) from exc
    await service.loader.follow()
    return RolledBack(current)


def _list(index_dir: Path) -> GenerationList:
    current = serving(index_dir)
    shown = [
        GenerationOut(
            id=manifest.id,
            created_at=manifest.created_at,
            documents=manifest.counts.documents,
            passages=manifest.counts.passages,
            embedding_model=manifest.embedding.model_id,
            is_current=manifest.id == current,
        )
        for manifest in list_generations(index_dir)
    ]
    return GenerationList(shown, current)


def _index_dir(service: Service) -> Path:
    return Path(service.settings.retrieval.index_dir)


router = Router(path="/", route_handlers=[get_generations, post_rollback], tags=["operations"])
