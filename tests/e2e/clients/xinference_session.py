"""A session of xinference-client, of any release since 0.16: one JSON object on stdout says what it saw."""

import json
import sys

from xinference_client import RESTfulClient

QUESTION = [{"role": "user", "content": "What is the largest animal?"}]

client = RESTfulClient(sys.argv[1])
seen: dict[str, object] = {}
uid = client.launch_model("demo-chat", model_type="LLM", model_engine="llama.cpp", model_uid=sys.argv[2])
seen["launch"] = uid
seen["list"] = client.list_models()[uid]
model = client.get_model(uid)
seen["chat"] = model.chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 64})
stream = model.chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 64, "stream": True})
seen["stream"] = list(stream)
seen["generate"] = model.generate("The largest animal is", generate_config={"max_tokens": 8, "temperature": 0})
seen["registrations"] = client.list_model_registrations("LLM")
client.terminate_model(uid)
seen["left"] = list(client.list_models())
try:
    client.get_model(uid)
except RuntimeError as error:
    seen["error"] = str(error)
print(json.dumps(seen))
