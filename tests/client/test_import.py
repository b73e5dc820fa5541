"""Importing the client costs little."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import modelrack.client
client = modelrack.client.Client("http://127.0.0.1:1")
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {"fastapi", "starlette", "uvicorn", "pydantic", "httpx", "asyncio", "rich", "click", "orjson", "pluggy"}


def test_import_is_cheap() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))
