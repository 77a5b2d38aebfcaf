"""Token counts of an answer: as the engine reports them, or as we estimate them."""

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """True when the engine reported none and we counted ourselves."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            estimated=self.estimated or other.estimated,
        )


NOTHING_USED = Usage(prompt_tokens=0, completion_tokens=0)


def estimate_tokens(text: str) -> int:
    """Estimate on the high side: English runs at four bytes and more a token."""
    return len(text.encode()) // 3 + 1
