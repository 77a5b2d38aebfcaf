"""Control characters: patterns that find them, functions that replace or refuse them."""

import re

# Everything below space but tab and newlines, DEL and the C1 block: no question needs them,
# and terminals, logs and tokenizers treat them specially.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""The same with tab and newlines, for what stands in one line: ids, titles."""


def without_controls(text: str) -> str:
    """Return the text with a space for each control character; tab and newlines stay."""
    return CONTROLS.sub(" ", text)


def require_text(text: str, *, at_least: int = 1) -> None:
    """Raise ValueError for text that is blank or holds control characters."""
    if len(text.strip()) < at_least:
        raise ValueError(f"Expected `str` of at least {at_least} characters that are not blank")
    if CONTROLS.search(text):
        raise ValueError("Expected `str` without control characters")
