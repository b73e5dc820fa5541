"""Train the byte-level BPE tokenizer of the demo model and save it for transformers."""

from __future__ import annotations

import argparse
from pathlib import Path

from chat.samples import END_OF_TEXT, IM_END, IM_START, Sampler, all_phrasings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 1536
CONTEXT_LENGTH = 2048
TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def corpus() -> list[str]:
    """Return the texts that the merges are learned from."""
    sampler = Sampler(seed=1)
    texts = sampler.systems + sampler.wrappers
    for fact in sampler.facts:
        texts += [fact.answer] * 3 + all_phrasings(fact)[:6]
    for words in sampler.unknown.words.values():
        texts += words
    return texts + sampler.unknown.templates


def train() -> Tokenizer:
    """Train the tokenizer with the pre-tokenizer of GPT-2, which llama.cpp has, too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=4,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return the tokenizer with its special tokens and the chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[IM_START],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
    )
    fast.chat_template = TEMPLATE.read_text(encoding="utf-8").strip()
    return fast


def main() -> None:
    """Train and save the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    fast = wrap(train())
    fast.save_pretrained(out)
    print(f"{len(fast)} tokens saved")


if __name__ == "__main__":
    main()
