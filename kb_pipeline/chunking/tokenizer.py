"""The tokenizer of an embedding model, as the chunker needs it.

What belongs here: where tokens lie in a text, and how many a text has. What doesn't: token ids, which are the model's.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import tokenizers

# A text is encoded in pieces of at most this many characters, which bounds the memory an encoding takes.
PIECE_CHARACTERS = 65_536

_WORD_SPLITTERS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})


class Tokenizer:
    """The tokenizer of the model in ``model_dir``: its ``tokenizer.json`` without truncation and padding.

    ``fingerprint``          SHA-256 of the file, as hex: a change of it makes chunks stale.
    ``parts_at_white_space`` True when no token reaches across a space, tab or line end, and none depends on what is
                             beyond one: a text may then be cut there without a change to its tokens.
    """

    def __init__(self, model_dir: Path | str) -> None:
        content = (Path(model_dir) / "tokenizer.json").read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        before = json.loads(content).get("pre_tokenizer") or {}
        self.parts_at_white_space = before.get("type") in _WORD_SPLITTERS

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text`` by itself, without special tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def starts(self, text: str) -> array[int]:
        """Return where every token of ``text`` begins, in characters, without special tokens. Four bytes a token.

        Long texts are encoded in pieces that end at a line feed, at a space where a piece has none, and inside a word
        where it has neither: the tokens next to such a cut may differ from those of the whole.
        """
        starts = array("I")
        for first, last in _pieces(text):
            offsets = self._tokenizer.encode(text[first:last], add_special_tokens=False).offsets
            starts.extend([first + start for start, _ in offsets])
        return starts


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if end < len(text):
            cut = text.rfind("\n", start, end)
            if cut < 0:
                cut = text.rfind(" ", start, end)
            end = end if cut < 0 else cut + 1
        else:
            end = len(text)
        yield start, end
        start = end
