"""Draw texts for the proof that Transformers and llama.cpp split the same texts into the same tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

SEED = 4
RANGES = [(0x20, 0x7E)] * 4 + [(0x09, 0x0A), (0xA0, 0x24F), (0x370, 0x4FF), (0x5D0, 0x6FF), (0x900, 0xDFF)]
RANGES += [(0x1E00, 0x1FFF), (0x2010, 0x2BFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF)]
PIECES = [
    "É",
    "e\u0301",
    "Ünder",
    "naïve",
    "don't",
    "3.14",
    "U.S.",
    "e-mail",
    "50%",
    "$9",
    "x_y",
    "…",
    "—",
    "\u201cword\u201d",
]
PIECES += [
    "\u00a0",
    "\n\n",
    "\t",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a" * 90,
    "İ",
    "ß",
    "½",
    "日本語",
    "한국어",
    "नमस्ते",
    "привет",
]


def random_text(source: random.Random, words: Sequence[str]) -> str:
    """Return a random mixture of words, awkward pieces and characters of many scripts."""
    parts = []
    for _ in range(source.randint(1, 12)):
        draw = source.random()
        if draw < 0.5:
            word = source.choice(words)
            parts.append(word.upper() if source.random() < 0.2 else word)
        elif draw < 0.75:
            parts.append(source.choice(PIECES))
        else:
            low, high = source.choice(RANGES)
            parts.append("".join(chr(source.randint(low, high)) for _ in range(source.randint(1, 4))))
        parts.append(" " if source.random() < 0.7 else "")
    return "".join(parts)


def compare(title: str, texts: Sequence[str], first: Sequence[list[int]], second: Sequence[list[int]]) -> None:
    """Print for how many texts two tokenizers agree, and some for which they do not."""
    different = [text for text, left, right in zip(texts, first, second, strict=True) if left != right]
    print(f"{title}: {len(texts) - len(different)} of {len(texts)} texts are the same tokens in both", flush=True)
    for text in different[:8]:
        print(f"  different: {text!a}")


def random_texts(words: Sequence[str], count: int) -> list[str]:
    """Return random texts."""
    source = random.Random(SEED)
    return [random_text(source, words) for _ in range(count)]
