"""Cards that we wrote know it: a digest in their last line tells one that somebody changed, wherever it lies."""

import hashlib
import re
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from huggingface_hub import CardData


_LINE = re.compile(
    r"\n*<!-- Written by hyperrep, and not changed since if its SHA-256 is (?P<digest>[0-9a-f]{64}) -->\s*\Z"
)


def signed(text: str) -> str:
    """The text with its signature at the end, in a comment that is not shown."""
    text = text.rstrip() + "\n"
    return f"{text}\n<!-- Written by hyperrep, and not changed since if its SHA-256 is {_digest(text)} -->\n"


def signed_card(data: "CardData", text: str) -> str:
    """A card that we write: its metadata, and the text with its signature."""
    return signed(f"---\n{data.to_yaml()}\n---\n{text}")


def is_unchanged(text: str) -> bool:
    """Whether we wrote the text, and nobody changed it; ends of lines and blank ones at the end do not count."""
    text = text.replace("\r\n", "\n")
    line = _LINE.search(text)
    return line is not None and line["digest"] == _digest(text[: line.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()
