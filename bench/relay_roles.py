"""The processes that bench.relay measures: a scripted engine, a bare pipe, our relay.

python -m bench.relay_roles engine|pipe|ragrelay|cached PORT [ENGINE_URL]
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp
import uvicorn

CHUNK = (
    b'data: {"object":"chat.completion.chunk","id":"","created":1741265133,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":" word"},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
)
END = (
    b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\ndata: [DONE]\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


async def engine(port: int) -> None:
    """Stream `max_tokens` tokens, `temperature` * 1000 of them a second."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if head.startswith(b"get"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                await writer.drain()
                return
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))
            pause = 1 / (1000 * asked["temperature"])
            writer.write(HEAD)
            loop = asyncio.get_running_loop()
            due = loop.time()
            for _ in range(asked["max_tokens"]):
                due += pause
                await asyncio.sleep(max(0.0, due - loop.time()))
                if writer.transport.is_closing():
                    return
                writer.write(CHUNK)
            writer.write(END)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def pipe(port: int, engine_url: str) -> None:
    """The bare limit: an ASGI app that passes the engine's bytes on."""
    session: aiohttp.ClientSession | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] != "http":
            return
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = (await receive())["body"]
        url = f"{engine_url}/v1/chat/completions"
        async with session.post(url, data=body) as response:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    uvicorn.run(app, port=port, log_level="error", lifespan="off", ws="none", backlog=4096)


def ragrelay(port: int, engine_url: str, *, cached: bool = False) -> None:
    """The whole service, less the search; `cached`: each answer may be shared and is kept."""
    from types import SimpleNamespace

    from api.app import create_app
    from api.settings.env import Settings
    from retrieval.search.retriever import Retrieval
    from retrieval.types import Hit, Passage, Scores

    passage = Passage("d:0", "d", "Title", "A passage of text.", 0, 18, {})
    found = Retrieval([Hit(passage, 1, Scores(0.5, 1.0, 1.0))], {"embed": 0.0}, "g")

    async def retrieve(query: str, k: int, *, query_embedding: object = None) -> Retrieval:
        return found

    async def run() -> None:
        pass

    app = create_app(
        Settings.from_env({"ENGINE": "tgi", "ENGINE_URL": engine_url, "CACHE_ENABLED": str(cached)})
    )
    app.service.loader = SimpleNamespace(  # type: ignore[assignment]
        retriever=lambda: SimpleNamespace(
            retrieve=retrieve, index=SimpleNamespace(generation="g")
        ),
        index=None, checks=dict, run=run, close=lambda: None, cache_embedder=None,
        shares_embedder=False,
    )  # fmt: skip
    uvicorn.run(app, port=port, log_level="error", log_config=None, ws="none", backlog=4096)


def main() -> None:
    role, port, *arguments = sys.argv[1:]
    match role:
        case "engine":
            asyncio.run(engine(int(port)))
        case "pipe":
            pipe(int(port), *arguments)
        case _:
            ragrelay(int(port), *arguments, cached=role == "cached")


if __name__ == "__main__":
    main()
