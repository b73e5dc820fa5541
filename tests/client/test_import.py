"""Importing the client costs little."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
started = time.process_time()
import modelrack.client
spent = time.process_time() - started
client = modelrack.client.Client("http://127.0.0.1:1")
print(json.dumps({"spent": spent, "modules": sorted(sys.modules)}))
"""
HEAVY = {"fastapi", "starlette", "uvicorn", "pydantic", "httpx", "asyncio", "rich", "click", "orjson", "pluggy"}


def test_import_is_cheap() -> None:
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    assert not HEAVY & set(runs[0]["modules"])
    assert min(run["spent"] for run in runs) < 0.2
