"""Makes foreign text harmless inside a prompt: no control tokens of the judge, a bounded size."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Openings that chat formats in use give a meaning to; after the first character they get a space.
CONTROL = re.compile(
    r"<(?=[|\uff5c])|(?<=[|\uff5c])(?=>)"
    r"|<(?=/?(?:s|think|thinking|answer|tool_call|tool_response|eos|bos|pad|unk)>)"
    r"|<(?=(?:start|end)_of_\w+>)|<(?=(?:beginning|end)_of_sentence>)"
    r"|\[(?=/?(?:INST|SYS)\])|<(?=</?SYS>>)"
    r"|\](?=~(?:b\]|!b\[))|\[(?=e~\[)|\[(?=/?AVAILABLE_TOOLS\])",
    re.IGNORECASE,
)
MOST_PASSES = 16


def escape(text: str, special_tokens: Sequence[str] = ()) -> str:
    """The text with every control token broken by a visible space, those of `special_tokens` too."""
    text = CONTROL.sub(lambda found: found[0] + " ", text)
    if not special_tokens:
        return text
    named = re.compile("|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True)))
    for _ in range(MOST_PASSES):
        if not named.search(text):
            return text
        text = named.sub(lambda found: found[0][0] + " " + found[0][1:], text)
    return named.sub(" ", text)


def cap(text: str, most_characters: int) -> str:
    """The text, or its two ends with a mark between them that says how much is missing."""
    if len(text) <= most_characters:
        return text
    half = most_characters // 2
    mark = f"\n[... {len(text) - 2 * half} characters left out here ...]\n"
    return text[:half] + mark + text[len(text) - half :]
