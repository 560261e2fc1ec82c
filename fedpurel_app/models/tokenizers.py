"""From text to the token ids of a text tower, without the start and end tokens."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from importlib import metadata
from typing import Protocol

from fedpurel_app.core.disk_memo import remembered


class Tokenizer(Protocol):
    """What a prompt learner needs to know of a tokenizer."""

    @property
    def start(self) -> int:
        """Id of the token that every prompt starts with."""
        ...

    @property
    def end(self) -> int:
        """Id of the end-of-text token."""
        ...

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids, without the start and end tokens."""
        ...


class WordTokenizer:
    """Tokens are whole words of a closed vocabulary; the last word is the end-of-text token.

    Parameters
    ----------
    words : sequence of str
        The vocabulary, with "<pad>" first, "<start>" second, "<end>" last, and "<spare...>" words that stand in for
        words it lacks.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._ids = {word: index for index, word in enumerate(words)}
        self._spare = [index for word, index in self._ids.items() if word.startswith("<spare")]
        self.start, self.end = self._ids["<start>"], self._ids["<end>"]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids. A word outside the vocabulary becomes a spare one, which means nothing."""
        return [[self._ids.get(word, self._stand_in(word)) for word in _words(text)] for text in texts]

    def unknown(self, text: str) -> list[str]:
        """List the words outside the vocabulary."""
        return [word for word in _words(text) if word not in self._ids]

    def _stand_in(self, word: str) -> int:
        return self._spare[zlib.crc32(word.encode()) % len(self._spare)]


class ClipTokenizer:
    """CLIP's own byte-pair encoding, as open_clip has it; ids of texts met before are remembered on disk.

    open_clip takes seconds to import, and a process that knows its class names' ids has no other use for it.
    """

    start, end = 49406, 49407

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids: lower case, white space cleaned."""
        key = json.dumps(["token ids", metadata.version("open_clip_torch"), *texts])
        found: list[list[int]] = remembered(key, lambda: self._encode(texts))
        return found

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer()
        return [tokenizer.encode(tokenizer.clean_fn(text)) for text in texts]


def _words(text: str) -> list[str]:
    return text.lower().replace(".", " . ").split()
