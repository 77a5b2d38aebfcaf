"""The bare limit of relaying: an ASGI app under uvicorn that passes the engine's bytes on.

python -m bench.support.pipe PORT ENGINE_URL
"""

import sys
from typing import Any

import aiohttp
import uvicorn


def pipe(port: int, engine_url: str) -> None:
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


if __name__ == "__main__":
    pipe(int(sys.argv[1]), sys.argv[2])
