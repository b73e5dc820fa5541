"""Run a BERT in GGUF with the server of llama.cpp that xllamacpp contains."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT_LENGTH, SLOTS = 512, 4
BATCH = 32


class LlamaCpp:
    """Embed texts, score pairs, and split texts into tokens."""

    def __init__(self, path: Path, rerank: bool = False, threads: int = 2) -> None:
        """Start the server; the file itself says how its answer is pooled."""
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.embedding = True
        if rerank:
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
        parameters.n_ctx = CONTEXT_LENGTH * SLOTS
        parameters.n_batch = parameters.n_ubatch = CONTEXT_LENGTH * SLOTS
        parameters.n_parallel = SLOTS
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = 0
        self.server = xllamacpp.Server(parameters)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a request to the server."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, with those at both ends."""
        with ThreadPoolExecutor(SLOTS) as pool:
            bodies = ({"content": text, "add_special": True, "parse_special": False} for text in texts)
            return [answer["tokens"] for answer in pool.map(lambda body: self.post("/tokenize", body), bodies)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts."""
        vectors = []
        for start in range(0, len(texts), BATCH):
            answer = self.post("/v1/embeddings", {"input": list(texts[start : start + BATCH])})
            vectors += [row["embedding"] for row in sorted(answer["data"], key=lambda row: row["index"])]
        return np.array(vectors, dtype=np.float32)

    def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return the score of each document, before the sigmoid."""
        answer = self.post("/v1/rerank", {"query": query, "documents": list(documents)})
        rows = sorted(answer["results"], key=lambda row: row["index"])
        return [row["relevance_score"] for row in rows]
