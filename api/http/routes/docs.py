"""GET /docs: Swagger UI over /schema, from files that come with us, no CDN."""

from pathlib import Path

from litestar import MediaType, Response, Router, get
from litestar.params import FromPath

from api.errors import NotFound

_FILES = Path(__file__).parents[2] / "vendor" / "swagger-ui"
_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_CACHE = {"Cache-Control": "public, max-age=86400"}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ragrelay API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
_START = 'SwaggerUIBundle({url: "schema", dom_id: "#ui", deepLinking: true});'
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@get("/docs", include_in_schema=False, media_type=MediaType.HTML, sync_to_thread=False)
def get_docs() -> Response[str]:
    return Response(_PAGE, headers={"Content-Security-Policy": _CSP}, media_type=MediaType.HTML)


@get("/docs/{name:str}", include_in_schema=False, sync_to_thread=False)
def get_docs_file(name: FromPath[str]) -> Response[bytes]:
    if name == "start.js":
        return Response(_START.encode(), media_type="text/javascript", headers=_CACHE)
    if name not in _TYPES:
        raise NotFound("no such file")
    return Response((_FILES / name).read_bytes(), media_type=_TYPES[name], headers=_CACHE)


router = Router(path="/", route_handlers=[get_docs, get_docs_file])
