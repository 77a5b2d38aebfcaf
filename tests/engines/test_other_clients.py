"""Other people's clients read our scripted streams as we do: the script is true to life.

huggingface_hub's AsyncInferenceClient on the chat route of every dialect; text-generation's
AsyncClient on TGI's own route, in an environment of its own (it needs huggingface-hub < 1).
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import DIALECTS, MODEL, Exchange, FakeEngine, frame, in_stream
from tests.support.harness import Client

PIECES = ["Paris", " isé", " it."]
"""Without U+2028: httpx, which the hub client reads lines with, tears JSON apart there."""
OLD_CLIENT = Path(sys.prefix) / "text-generation" / "bin" / "python"


def ours(engine: FakeEngine, kind: str) -> tuple[str, int, int]:
    import aiohttp

    from api.engines.client import Engine, EngineLimits, Finish, Sampling

    async def run() -> tuple[str, int, int]:
        limits = EngineLimits(connect_s=1, first_token_s=5, token_s=5)
        async with aiohttp.ClientSession() as session:
            client = Engine(session, kind=kind, url=engine.url, model=MODEL, limits=limits)
            deadline = asyncio.get_running_loop().time() + 10
            sampling = Sampling(max_tokens=8, temperature=0)
            stream = client.stream([], sampling, request_id="r", deadline=deadline)
            pieces = [piece async for piece in stream]
            finish = pieces.pop()
            assert isinstance(finish, Finish) and finish.usage
            usage = finish.usage
            return "".join(map(str, pieces)), usage.prompt_tokens, usage.completion_tokens

    return asyncio.run(run())


@pytest.mark.parametrize("kind", DIALECTS)
def test_hub_client_sees_the_same_text_and_usage(engine: FakeEngine, kind: str) -> None:
    from huggingface_hub import AsyncInferenceClient, ChatCompletionInputStreamOptions

    engine.script = in_stream(*DIALECTS[kind].stream(PIECES))

    async def run() -> tuple[str, int, int]:
        client = AsyncInferenceClient(base_url=engine.url)
        stream = await client.chat_completion(
            [{"role": "user", "content": "q"}],
            model=MODEL,
            stream=True,
            stream_options=ChatCompletionInputStreamOptions(include_usage=True),
            max_tokens=8,
        )
        text, usage = "", None
        async for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            usage = chunk.usage or usage
        await client.close()
        assert usage is not None
        return text, usage.prompt_tokens, usage.completion_tokens

    assert asyncio.run(run()) == ours(engine, kind) == ("Paris isé it.", 39, 3)


def test_old_tgi_client_sees_the_same_text(client: Client, engine: FakeEngine) -> None:
    """`/generate_stream` as TGI 3.3.7 frames it, read by text-generation 0.7.0."""
    if not OLD_CLIENT.exists():
        pytest.skip("text-generation is not installed: make .venv/text-generation")

    async def generate_stream(exchange: Exchange) -> None:
        await exchange.head()
        for n, piece in enumerate(PIECES, 1):
            token = {"id": n, "text": piece, "logprob": -0.2, "special": False}
            last = n == len(PIECES)
            details = {"finish_reason": "eos_token", "generated_tokens": 3, "seed": None,
                       "input_length": 39}  # fmt: skip
            await exchange.send(
                frame(
                    {
                        "index": n,
                        "token": token,
                        "generated_text": "".join(PIECES) if last else None,
                        "details": details if last else None,
                    }
                )  # fmt: skip
            )

    engine.script = generate_stream
    code = (
        "import asyncio, json, sys\n"
        "from text_generation import AsyncClient\n"
        "async def main():\n"
        "    text, details = '', None\n"
        "    async for r in AsyncClient(sys.argv[1]).generate_stream('q', max_new_tokens=8):\n"
        "        text += r.token.text\n"
        "        details = r.details or details\n"
        "    print(json.dumps([text, details.generated_tokens, details.finish_reason.value]))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([OLD_CLIENT, "-c", code, engine.url], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == ["".join(PIECES), 3, "eos_token"]
