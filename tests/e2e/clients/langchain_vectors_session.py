"""A session of LangChain's integration with an embedding and a rerank model, blocking and not."""

import asyncio
import json
import sys

from langchain_core.documents import Document
from langchain_xinference import XinferenceEmbeddings, XinferenceRerank

url, embedder, reranker = sys.argv[1:4]
texts: dict[str, list[str]] = json.loads(sys.argv[4])
documents = [Document(text, metadata={"number": number}) for number, text in enumerate(texts["documents"])]


def numbers(ranked: object) -> list[int]:
    """Return which documents came back, in their order."""
    return [one.metadata["number"] for one in ranked]  # type: ignore[attr-defined]


async def ask(query: str) -> tuple[list[list[float]], list[float], list[int]]:
    """Ask in an event loop; the integration makes its asynchronous client only inside one."""
    embeddings = XinferenceEmbeddings(server_url=url, model_uid=embedder)
    ranker = XinferenceRerank(server_url=url, model_uid=reranker)
    return (
        await embeddings.aembed_documents(texts["documents"]),
        await embeddings.aembed_query(query),
        numbers(await ranker.acompress_documents(documents, query)),
    )


embeddings = XinferenceEmbeddings(server_url=url, model_uid=embedder)
ranker = XinferenceRerank(server_url=url, model_uid=reranker)
query = texts["queries"][0]
seen = {
    "documents": embeddings.embed_documents(texts["documents"]),
    "query": embeddings.embed_query(query),
    "ranked": numbers(ranker.compress_documents(documents, query)),
    "async": asyncio.run(ask(query)),
}
print(json.dumps(seen))
