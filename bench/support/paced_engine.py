"""An OpenAI-compatible engine in a process of its own, paced by what each request asks for.

python -m bench.support.paced_engine PORT

It streams `max_tokens` tokens, `temperature` * 1000 of them a second.
"""

import asyncio
import json
import sys

import uvloop

CHUNKS = [
    b'data: {"object":"chat.completion.chunk","id":"","created":1741265133,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":" word%d"},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n' % n
    for n in range(10)
]
"""In turn: LiteLLM ends a stream that repeats itself."""
END = (
    b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\ndata: [DONE]\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get"):
            writer.write(HEALTHY)
        else:
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))
            await stream(writer, asked["max_tokens"], 1000 * asked["temperature"])
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def stream(writer: asyncio.StreamWriter, tokens: int, rate: float) -> None:
    writer.write(HEAD)
    loop = asyncio.get_running_loop()
    due = loop.time()
    for n in range(tokens):
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        if writer.transport.is_closing():
            return
        writer.write(CHUNKS[n % len(CHUNKS)])
    writer.write(END)


async def serve(port: int) -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
