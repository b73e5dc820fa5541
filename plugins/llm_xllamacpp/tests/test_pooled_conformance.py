"""The conformance kits of embedding and rerank models, pointed at the engine `llama.cpp`."""

from modelrack.testing.conformance import EmbeddingConformance, RerankConformance
from modelrack.testing.gguf_subjects import embedding_subject, rerank_subject


class TestEmbedding(EmbeddingConformance):
    subject = embedding_subject("llama.cpp")


class TestRerank(RerankConformance):
    subject = rerank_subject("llama.cpp")
