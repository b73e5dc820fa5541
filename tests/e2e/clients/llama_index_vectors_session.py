"""A session of LlamaIndex's integrations with an embedding and a rerank model."""

import asyncio
import json
import sys

from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.xinference import XinferenceEmbedding
from llama_index.postprocessor.xinference_rerank import XinferenceRerank

url, embedder, reranker = sys.argv[1:4]
texts: dict[str, list[str]] = json.loads(sys.argv[4])
query = texts["queries"][0]

embedding = XinferenceEmbedding(model_uid=embedder, base_url=url)
ranker = XinferenceRerank(model=reranker, base_url=url, top_n=3)
nodes = [NodeWithScore(node=TextNode(text=text, id_=str(number))) for number, text in enumerate(texts["documents"])]
ranked = ranker.postprocess_nodes(nodes, query_bundle=QueryBundle(query))
seen = {
    "documents": embedding.get_text_embedding_batch(texts["documents"]),
    "query": embedding.get_query_embedding(query),
    "async": asyncio.run(embedding.aget_query_embedding(query)),
    "ranked": [int(one.node.node_id) for one in ranked],
    "scores": [one.score for one in ranked],
}
print(json.dumps(seen))
