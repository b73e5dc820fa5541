"""A session of xinference-client with an embedding and a rerank model."""

import json
import sys

from xinference_client import RESTfulClient

url, embedder, reranker = sys.argv[1:4]
texts: dict[str, list[str]] = json.loads(sys.argv[4])

client = RESTfulClient(url)
seen: dict[str, object] = {}
model = client.get_model(embedder)
seen["one"] = model.create_embedding(texts["queries"][0])
seen["many"] = model.create_embedding(texts["documents"])
ranker = client.get_model(reranker)
seen["ranked"] = ranker.rerank(texts["documents"], texts["queries"][0])
seen["best"] = ranker.rerank(
    texts["documents"], texts["queries"][0], top_n=1, return_documents=True, return_len=True, max_chunks_per_doc=None
)
listed = client.list_models()
seen["list"] = {uid: listed[uid] for uid in (embedder, reranker)}
seen["registrations"] = {name: client.list_model_registrations(name) for name in ("embedding", "rerank")}
try:
    model.create_embedding([])
except RuntimeError as error:
    seen["error"] = str(error)
print(json.dumps(seen))
