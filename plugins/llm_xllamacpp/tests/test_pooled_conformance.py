"""The conformance kits of embedding and rerank models, pointed at the engine `llama.cpp`."""

from modelrack.testing.conformance import EmbeddingConformance, RerankConformance
from modelrack.testing.gguf_subjects import embedding_subject, rerank_subject
from modelrack_demo.heldout import load

HELD_OUT = load()
LOOKUPS = tuple((one.text, one.passage) for one in HELD_OUT.lookups if one.verified)


class TestEmbedding(EmbeddingConformance):
    subject = embedding_subject("llama.cpp", meanings={"demo-embedding": (HELD_OUT.passages, LOOKUPS)})


class TestRerank(RerankConformance):
    subject = rerank_subject("llama.cpp")
