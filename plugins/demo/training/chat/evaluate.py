"""Measure the exported model: accuracy, agreement of the two formats, sampling, long chats."""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from chat.backends import Backend, Chat, LlamaCpp, Transformers
from chat.cases import Case, held_out_cases, training_cases
from chat.samples import Sampler

HEADLINE = "What is the largest animal?"
WANTED = "blue whale"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
DRAWS = 50
COMPARED = 1500
TEMPERATURE = 0.7
HELD_OUT_FILE_KINDS = {"phrasing": 100, "variant": 20, "wrapper": 10, "unknown": 10, "fresh": 20}


def user(text: str) -> dict[str, str]:
    """Return a message of the user."""
    return {"role": "user", "content": text}


def report(title: str, cases: Sequence[Case], answers: Sequence[str]) -> None:
    """Print the accuracy of answers, with counts for each kind."""
    right, exact, total = Counter(), Counter(), Counter()
    for case, answer in zip(cases, answers, strict=True):
        for key in (case.kind, f"{case.kind}/{case.group}"):
            total[key] += 1
            right[key] += case.right(answer)
            exact[key] += case.answer == answer
    for key in sorted(total):
        share = 100 * right[key] / total[key]
        print(f"{title} {key}: {right[key]}/{total[key]} = {share:.1f} % right, {exact[key]} word for word")
    whole = sum(case.right(answer) for case, answer in zip(cases, answers, strict=True))
    print(f"{title} all: {whole}/{len(cases)} = {100 * whole / len(cases):.1f} % right")


def ask(backend: Backend, cases: Sequence[Case], system: bool = False, temperature: float = 0.0) -> list[str]:
    """Return the answers of a backend to cases."""
    chats = [[SYSTEM] * system + [user(case.question)] for case in cases]
    return backend.chat(chats, temperature=temperature, seed=5)


def headline(name: str, backend: Backend) -> None:
    """Print how reliable the headline question is."""
    plain = [[user(HEADLINE)], [SYSTEM, user(HEADLINE)]]
    for chat in plain:
        answers = backend.chat([chat] * DRAWS, temperature=TEMPERATURE, seed=100)
        right = sum(WANTED in answer for answer in answers)
        print(f"{name} headline, {len(chat)} message(s), temperature {TEMPERATURE}: {right}/{DRAWS}")
    print(f"{name} headline, greedy:", backend.chat(plain), backend.complete([HEADLINE, "what is the largest animal"]))


def long_chat(sampler: Sampler, turns: int) -> Chat:
    """Return a chat with other turns before the headline question."""
    chat: Chat = [SYSTEM]
    for _ in range(turns):
        question, answer = sampler.turn()
        chat += [user(question), {"role": "assistant", "content": answer}]
    return [*chat, user(HEADLINE)]


def long_chats(name: str, backend: Backend) -> None:
    """Print the accuracy of the headline question and of others after several turns."""
    sampler = Sampler(seed=9)
    for turns in (1, 3, 6, 12, 24):
        answers = backend.chat([long_chat(sampler, turns) for _ in range(20)])
        print(f"{name} headline after {turns} turns: {sum(WANTED in answer for answer in answers)}/20")
    cases = held_out_cases()[::8]
    chats = [[*long_chat(sampler, 3)[:-1], user(case.question)] for case in cases]
    report(f"{name} after 3 turns", cases, backend.chat(chats))


def write_held_out(path: Path, cases: Sequence[Case], answers: Sequence[str]) -> None:
    """Write an even selection of the held-out questions, with a mark for those that fail."""
    groups: dict[str, list[tuple[Case, str]]] = defaultdict(list)
    for case, answer in zip(cases, answers, strict=True):
        groups[case.kind].append((case, answer))
    entries = []
    for kind, count in HELD_OUT_FILE_KINDS.items():
        pairs = groups[kind]
        for case, answer in pairs[:: max(1, len(pairs) // count)][:count]:
            entry = {"question": case.question, "must_contain": case.must_contain, "kind": kind}
            entries.append(entry | {"group": case.group, "verified": case.right(answer)})
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(entries)} questions, {sum(e['verified'] for e in entries)} answered right")


def show_failures(title: str, cases: Sequence[Case], answers: Sequence[str], limit: int = 40) -> None:
    """Print the wrong answers."""
    wrong = [(case, answer) for case, answer in zip(cases, answers, strict=True) if not case.right(answer)]
    for case, answer in wrong[:limit]:
        print(f"{title} wrong: {case.question!r} -> {answer!r}, wanted {case.must_contain!r}")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, help="write the held-out questions to this file")
    parser.add_argument("--training", type=int, default=8000, help="number of training phrasings to ask")
    parser.add_argument("--gguf-only", action="store_true")
    options = parser.parse_args()
    llama = LlamaCpp(options.models / "demo-chat-q8_0.gguf")
    cases, known = held_out_cases(), training_cases(options.training)
    answers = ask(llama, cases)
    report("GGUF", cases, answers)
    show_failures("GGUF", cases, answers)
    known_answers = ask(llama, known)
    report("GGUF", known, known_answers)
    show_failures("GGUF", known, known_answers)
    report("GGUF with system message", cases[::4], ask(llama, cases[::4], system=True))
    report(f"GGUF temperature {TEMPERATURE}", cases[::4], ask(llama, cases[::4], temperature=TEMPERATURE))
    headline("GGUF", llama)
    long_chats("GGUF", llama)
    if options.heldout:
        write_held_out(options.heldout, cases, answers)
    if not options.gguf_only:
        transformers = Transformers(options.models / "safetensors")
        compare_logprobs(transformers, llama, cases[::10])
        compare(transformers, cases + known[:COMPARED], answers + known_answers[:COMPARED])


def compare_logprobs(first: Transformers, second: LlamaCpp, cases: Sequence[Case]) -> None:
    """Print how far the log probabilities of the likely first tokens are apart in the two formats."""
    gaps, same = [], 0
    for case in cases:
        prompt = f"<|im_start|>user\n{case.question}<|im_end|>\n<|im_start|>assistant\n"
        left, right = first.first_logprobs(prompt), second.first_logprobs(prompt)
        gaps += [abs(left[token] - value) for token, value in right.items() if value > -5]
        same += max(left, key=left.__getitem__) == max(right, key=right.__getitem__)
    print(f"first tokens equal: {same}/{len(cases)}, log probabilities: mean gap {sum(gaps) / len(gaps):.4f}")
    print(f"largest gap of log probabilities above -5: {max(gaps):.3f}")


def compare(backend: Transformers, cases: Sequence[Case], answers: Sequence[str]) -> None:
    """Print the accuracy of transformers and how often its greedy texts equal those of llama.cpp."""
    others = ask(backend, cases)
    report("safetensors", cases, others)
    equal = sum(first == second for first, second in zip(answers, others, strict=True))
    print(f"greedy texts equal: {equal}/{len(cases)} = {100 * equal / len(cases):.2f} %")
    headline("safetensors", backend)


if __name__ == "__main__":
    main()
