"""GGUF language models on llama.cpp's own server core."""
