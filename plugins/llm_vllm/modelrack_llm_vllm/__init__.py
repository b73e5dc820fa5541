"""vLLM for modelrack: its own server as a command, and what stands between it and the public API."""
