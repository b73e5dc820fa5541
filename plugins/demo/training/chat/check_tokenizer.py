"""Prove that transformers and llama.cpp split the same texts into the same tokens."""

from __future__ import annotations

import argparse
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chat.backends import SLOTS, LlamaCpp, Transformers
from chat.samples import Sampler, all_phrasings

RANGES = [(0x09, 0x0D), (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x4FF), (0x590, 0x6FF), (0x900, 0xDFF)]
RANGES += [(0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF00, 0xFFEF)]
RANGES += [(0x1F300, 0x1FAFF), (0x10000, 0x103FF), (0x1D400, 0x1D7FF), (0x20000, 0x2A6DF)]
PIECES = ["'s", "'ll", "'S", " ", "  ", "\n", "\n\n", "\t", "\r\n", "12", "3.14", "don't", "<|im_start|>", "<|im_end|>"]
PIECES += ["<|endoftext|>", "<|im_", "|>", "é", "e\u0301", "\u200d", "\ufe0f", "\u00a0", "\u3000", "\u2028", "\u0085"]


def random_text(source: random.Random) -> str:
    """Return a random mixture of characters of many scripts and of awkward pieces."""
    parts = []
    for _ in range(source.randint(1, 40)):
        if source.random() < 0.25:
            parts.append(source.choice(PIECES))
        else:
            low, high = source.choice(RANGES)
            parts.append(chr(source.randint(low, high)))
    return "".join(parts)


def texts(count: int) -> dict[str, list[str]]:
    """Return the groups of texts to compare."""
    sampler = Sampler(seed=3)
    source = random.Random(4)
    return {
        "phrasings": [text for fact in sampler.facts for text in all_phrasings(fact)],
        "answers": [fact.answer for fact in sampler.facts],
        "samples": ["".join(part for part, _ in sampler.sample()) for _ in range(count)],
        "random unicode": [random_text(source) for _ in range(count)],
    }


def main() -> int:
    """Compare the tokens of all texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    options = parser.parse_args()
    first = Transformers(options.models / "safetensors")
    second = LlamaCpp(options.models / "demo-chat-q8_0.gguf")
    failures = 0
    for name, group in texts(options.count).items():
        with ThreadPoolExecutor(SLOTS) as pool:
            found = list(pool.map(second.tokens, group))
        different = [text for text, tokens in zip(group, found, strict=True) if first.tokens(text) != tokens]
        failures += len(different)
        print(f"{name}: {len(group) - len(different)} of {len(group)} texts equal", flush=True)
        for text in different[:5]:
            print("  different:", ascii(text))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
