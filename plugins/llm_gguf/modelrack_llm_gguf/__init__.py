"""GGUF language models on llama-cpp-python, many sequences in one decode loop."""
