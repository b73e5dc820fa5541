"""Train the WordPiece tokenizer that both BERT models share."""

from __future__ import annotations

import random
import string

from facts import load_lines, load_unknown
from retrieval.everyday import Everyday
from retrieval.passages import load_passages, load_words
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer

VOCABULARY = 4096
CONTEXT_LENGTH = 512
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
SEED = 3
EVERYDAY_TEXTS = 4000


def corpus() -> list[str]:
    """Return the texts that the pieces are learned from: what is seen often becomes one piece."""
    texts = []
    for passage in load_passages():
        texts += [passage.text] * 4 + passage.statements * 2 + passage.queries[:8]
    unknown = load_unknown()
    texts += unknown.templates + [word for words in unknown.words.values() for word in words]
    texts += load_lines("wrappers.txt", "?") + load_lines("statements.txt") + load_lines("smalltalk.txt", "=")
    texts += load_lines("synonyms.txt") * 4 + load_lines("statement_wrappers.txt", "?")
    everyday = Everyday(random.Random(SEED))
    texts += [text for _ in range(EVERYDAY_TEXTS // 2) for text in everyday.sentence()]
    texts += [" ".join(word for words in meanings for word in words) for meanings in everyday.lists.values()] * 4
    return texts + load_words() * 4 + [f"{word}s" for word in load_words()]


def train() -> Tokenizer:
    """Train a tokenizer like BERT's uncased one.

    The alphabet is that of ASCII: a word with any other character, once it has lost its accents, is one unknown token.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    alphabet = string.ascii_lowercase + string.digits + string.punctuation
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=list(alphabet),
        limit_alphabet=len(alphabet),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return with_all_pieces(tokenizer, alphabet)


def with_all_pieces(tokenizer: Tokenizer, alphabet: str) -> Tokenizer:
    """Return the tokenizer with every character as a piece, alone and inside a word: no ASCII word is unknown."""
    known = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    needed = [*SPECIAL.values(), *alphabet, *(f"##{letter}" for letter in alphabet if letter.isalnum())]
    rest = [token for token in known if token not in set(needed)]
    tokens = needed + rest[: VOCABULARY - len(needed)]
    pieces = {token: number for number, token in enumerate(tokens)}
    tokenizer.model = models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])],
    )
    return tokenizer


def wrap(tokenizer: Tokenizer) -> BertTokenizer:
    """Return the tokenizer as Transformers uses it."""
    return BertTokenizer(tokenizer_object=tokenizer, do_lower_case=True, model_max_length=CONTEXT_LENGTH, **SPECIAL)
