"""A session of LlamaIndex's integration, with the client that it was written for."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.xinference import Xinference
from xinference_client import RESTfulClient

QUESTION = "What is the largest animal?"

client = RESTfulClient(sys.argv[1])
seen: dict[str, object] = {}
uid = client.launch_model("demo-chat", model_type="LLM", model_engine="llama.cpp", model_uid=sys.argv[2])
seen["launch"] = uid
seen["list"] = client.list_models()[uid]
llm = Xinference(endpoint=sys.argv[1], model_uid=uid, temperature=0.0, max_tokens=64)
seen["context"] = llm.context_window
seen["chat"] = llm.chat([ChatMessage(role="user", content=QUESTION)]).message.content
seen["complete"] = llm.complete(QUESTION).text
seen["stream"] = [answer.delta for answer in llm.stream_chat([ChatMessage(role="user", content=QUESTION)])]
client.terminate_model(uid)
seen["left"] = list(client.list_models())
print(json.dumps(seen))
