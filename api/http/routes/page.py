"""The web page at /: its files, packed once when the app is made, and questions to begin with.

The files are ours and pinned libraries, plain modules without a build step. Nobody needs a key to
see them; what the page then asks the API for wants one as ever.
"""

import gzip
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.params import FromPath

from api.admission.caller import view_of
from api.admission.limits import NO_COST
from api.errors import NoIndex, NotFound
from api.http.admit import admitted_of, admitting
from api.http.edge import headers_of
from api.runtime.service import Service
from retrieval.index.filters import View
from retrieval.index.index import Index
from retrieval.types import Rows

_FILES = Path(__file__).parents[2] / "pages"
_TYPES = {  # of text the framework adds the charset
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Names carry no version: the browser keeps the files and asks whether they still hold.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
_PRELOADS = "<!-- modules -->"

MOST_EXAMPLES = 4
LOOKED_AT = 200
"""Passages, spread over the index; reading one takes some 5 µs."""
LONGEST_TITLE = 80
ABOUT = "” about?"
"""The end of the plainest question; those for a section of a document come before it."""


class Asset(msgspec.Struct, frozen=True):
    plain: bytes
    packed: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, suffix: str) -> "Asset":
        etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        return cls(content, gzip.compress(content, 9, mtime=0), _TYPES[suffix], etag)


class Examples(msgspec.Struct, frozen=True):
    questions: list[str]
    passages: int
    """That the caller sees; 0 where there is no index."""


@get("/", include_in_schema=False)
async def get_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    return _answer(request, "index.html")


@get("/page/{name:path}", include_in_schema=False)
async def get_page_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    return _answer(request, name.lstrip("/"))


@get(
    "/page/examples", include_in_schema=False, before_request=admitting("search", "query", NO_COST)
)
async def get_examples(request: Request[Any, Any, Any]) -> Examples:
    service: Service = request.app.state.service
    try:
        index = service.loader.retriever().index
    except NoIndex:
        return Examples([], 0)
    rows = visible_rows(index, view_of(admitted_of(request).caller))
    step = max(1, len(rows) // LOOKED_AT)
    titles = (index.passages[int(row)].title for row in rows[::step])
    return Examples(example_questions(titles), len(rows))


def visible_rows(index: Index, view: View) -> Sequence[int] | Rows:
    selection = index.visibility.selection(view)
    return range(len(index)) if selection is None else selection.rows


def example_questions(titles: Iterable[str]) -> list[str]:
    """Questions that the passages of these titles may answer, from as many documents as there are.

    A title is "Document > Section > …". A heading that asks is taken as it is; the longer say more.
    """
    by_document: dict[str, list[str]] = {}
    for title in titles:
        document, _, section = title.partition(" > ")
        question = _question(document, section.rsplit(" > ", 1)[-1])
        if question and question not in by_document.setdefault(document, []):
            by_document[document].append(question)
    for found in by_document.values():
        found.sort(key=lambda question: (question.endswith(ABOUT), -len(question)))
    rounds = range(MOST_EXAMPLES)
    spread = [found[n] for n in rounds for found in by_document.values() if n < len(found)]
    return spread[:MOST_EXAMPLES]


def _question(document: str, section: str) -> str | None:
    heading = section or document
    if not heading.strip() or len(document) + len(section) > LONGEST_TITLE or "|" in heading:
        return None
    if heading.endswith("?"):
        return heading
    if section:
        return f"What does “{document}” say about “{section}”?"
    return f"What is “{document}{ABOUT}"


def _answer(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    asset = _assets().get(name)
    if asset is None:
        raise NotFound("no such file")
    sent = headers_of(request.scope)
    headers = {**_HEADERS, "ETag": asset.etag}
    if asset.etag in sent.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    if "gzip" in sent.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.packed, media_type=asset.media_type, headers=headers)
    return Response(asset.plain, media_type=asset.media_type, headers=headers)


@cache
def _assets() -> dict[str, Asset]:
    """By their path below /page/, and the page itself as index.html."""
    files = {
        path.relative_to(_FILES).as_posix(): path.read_bytes()
        for path in sorted(_FILES.rglob("*"))
        if path.suffix in _TYPES
    }
    modules = [name for name in files if name.endswith(".js") and name != "theme.js"]
    # All modules at once, not one after the other as their imports are met.
    links = "\n".join(f'<link rel="modulepreload" href="page/{name}">' for name in modules)
    files["index.html"] = files["index.html"].replace(_PRELOADS.encode(), links.encode())
    return {name: Asset.of(content, Path(name).suffix) for name, content in files.items()}


def router() -> Router:
    _assets()
    return Router(path="/", route_handlers=[get_page, get_page_file, get_examples])
