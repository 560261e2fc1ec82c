"""From text to the token ids of a text tower, without the start and end tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol


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

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids, without the start and end tokens."""
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

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids. A word outside the vocabulary becomes a spare one, which means nothing."""
        return [self._ids.get(word, self._stand_in(word)) for word in text.lower().replace(".", " . ").split()]

    def unknown(self, text: str) -> list[str]:
        """List the words outside the vocabulary."""
        return [word for word in text.lower().replace(".", " . ").split() if word not in self._ids]

    def _stand_in(self, word: str) -> int:
        return self._spare[zlib.crc32(word.encode()) % len(self._spare)]


class ClipTokenizer:
    """CLIP's own byte-pair encoding, as open_clip has it; open_clip is imported when the first text comes."""

    start, end = 49406, 49407

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids: lower case, white space cleaned."""
        ids: list[int] = self._tokenizer.encode(self._tokenizer.clean_fn(text))
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer()
