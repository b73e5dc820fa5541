"""A session of LangChain's integration, chat and completion, streamed and not."""

import asyncio
import json
import sys

from langchain_xinference import ChatXinference, Xinference
from xinference_client import RESTfulClient

QUESTION = [("human", "What is the largest animal?")]


async def ask() -> str:
    """Ask in an event loop; the integration makes its asynchronous client only inside one."""
    chat = ChatXinference(server_url=sys.argv[1], model_uid=sys.argv[2], temperature=0.0, max_tokens=64)
    return str((await chat.ainvoke(QUESTION)).content)


client = RESTfulClient(sys.argv[1])
seen: dict[str, object] = {}
uid = client.launch_model("demo-chat", model_type="LLM", model_engine="llama.cpp", model_uid=sys.argv[2])
seen["launch"] = uid
seen["list"] = client.list_models()[uid]
chat = ChatXinference(server_url=sys.argv[1], model_uid=uid, temperature=0.0, max_tokens=64)
seen["chat"] = chat.invoke(QUESTION).content
seen["async"] = asyncio.run(ask())
chat_stream = ChatXinference(server_url=sys.argv[1], model_uid=uid, temperature=0.0, max_tokens=64, stream=True)
seen["stream"] = [chunk.content for chunk in chat_stream.stream(QUESTION)]
llm = Xinference(server_url=sys.argv[1], model_uid=uid, temperature=0.0, max_tokens=8)
seen["complete"] = llm.invoke("The largest animal is")
seen["complete_stream"] = list(llm.stream("The largest animal is"))
client.terminate_model(uid)
seen["left"] = list(client.list_models())
print(json.dumps(seen))
