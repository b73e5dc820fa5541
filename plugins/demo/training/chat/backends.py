"""Ask the demo model through transformers or through llama.cpp."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

Chat = list[dict[str, str]]
MAX_TOKENS = 320
BATCH = 64
SLOTS = 8


class Backend(Protocol):
    """Answer chats and continue plain texts."""

    def chat(self, chats: Sequence[Chat], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """Return the answers to chats."""

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """Return greedy continuations of plain texts."""

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text."""


class Transformers:
    """Run the safetensors folder with transformers."""

    def __init__(self, folder: Path) -> None:
        """Load the model and its tokenizer in float32."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def chat(self, chats: Sequence[Chat], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """Return the answers to chats."""
        render = self.tokenizer.apply_chat_template
        prompts = [render(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        return self.generate(prompts, temperature, seed)

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """Return greedy continuations of plain texts."""
        return self.generate(prompts, 0.0, 0)

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def first_logprobs(self, prompt: str) -> dict[int, float]:
        """Return the log probability of each token after a prompt."""
        inputs = self.tokenizer([prompt], return_tensors="pt")
        with self.torch.no_grad():
            logits = self.model(input_ids=inputs["input_ids"]).logits[0, -1]
        return dict(enumerate(logits.log_softmax(-1).tolist()))

    def generate(self, prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        """Continue prompts in batches of similar length."""
        self.torch.manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        answers = [""] * len(prompts)
        options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            inputs = self.tokenizer([prompts[n] for n in numbers], return_tensors="pt", padding=True)
            output = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, **options)
            new = output[:, inputs["input_ids"].shape[1] :]
            for number, text in zip(numbers, self.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                answers[number] = text.strip()
        return answers


class LlamaCpp:
    """Run the GGUF file with the server of llama.cpp that xllamacpp contains."""

    def __init__(self, path: Path) -> None:
        """Start the server."""
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 2048 * SLOTS
        parameters.n_parallel = SLOTS
        parameters.cpuparams.n_threads = 2
        parameters.cpuparams_batch.n_threads = 2
        parameters.verbosity = 0
        self.server = xllamacpp.Server(parameters)

    def post(self, path: str, body: dict) -> dict:
        """Send a request to the server."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)

    def chat(self, chats: Sequence[Chat], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """Return the answers to chats."""

        def ask(number: int) -> str:
            body = {"messages": chats[number], "temperature": temperature, "seed": seed + number, "top_k": 0}
            body |= {"top_p": 1.0, "min_p": 0.0, "max_tokens": MAX_TOKENS}
            return self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"].strip()

        with ThreadPoolExecutor(SLOTS) as pool:
            return list(pool.map(ask, range(len(chats))))

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """Return greedy continuations of plain texts."""

        def ask(prompt: str) -> str:
            body = {"prompt": prompt, "temperature": 0.0, "max_tokens": MAX_TOKENS}
            return self.post("/v1/completions", body)["choices"][0]["text"].strip()

        with ThreadPoolExecutor(SLOTS) as pool:
            return list(pool.map(ask, prompts))

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def first_logprobs(self, prompt: str) -> dict[int, float]:
        """Return the log probabilities of the likeliest tokens after a prompt."""
        body = {"prompt": prompt, "n_predict": 1, "n_probs": 10, "temperature": 0.0, "cache_prompt": False}
        found = self.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return {entry["id"]: entry["logprob"] for entry in found}
