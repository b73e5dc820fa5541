"""Hold answers to JSON schemas, patterns, choices and grammars, whatever engine writes them.

An engine that can choose its tokens by a mask needs no more than the vocabulary of its model:

    vocabulary = Vocabulary.of_tokens(pieces, specials=specials, ends=end_ids, encode=encode)
    constraints = Constraints(vocabulary)                      # one for a loaded model
    matcher = await constraints.prepare(generation.constraint)  # one for a sequence

    masks = Masks(vocabulary, rows)                            # a bit for each token, a row for each sequence
    is_complete = matcher.fill(masks, row)                     # before a token is chosen
    matcher.accept(token)                                      # afterwards

Grammars are followed by the package `llguidance`, which comes with `modelrack[guided]`. Neither it nor NumPy is
imported before a vocabulary is made.
"""

from .constraints import Constraints
from .guidance import KINDS
from .masks import Masks
from .matcher import Matcher
from .vocabulary import Vocabulary, missing

__all__ = ["KINDS", "Constraints", "Masks", "Matcher", "Vocabulary", "missing"]
