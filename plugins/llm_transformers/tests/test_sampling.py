"""Sampling against Transformers' own processors of logits, and what seeds do."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from modelrack.llm.contract import Sampling
from modelrack_llm_transformers.logprobs import Logprobs
from modelrack_llm_transformers.sampling import Sampler, cut, draw

CPU = torch.device("cpu")
VOCABULARY = 3000


def logits_of(rows: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, VOCABULARY), generator=torch.Generator().manual_seed(seed)) * 3


def reference(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the probabilities by Transformers."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1:
        warpers.append(TypicalLogitsWarper(sampling.typical_p))
    found: torch.Tensor = warpers(torch.zeros((1, 1), dtype=torch.long), logits[None].clone())
    return torch.softmax(found, -1)[0]


CUTS = (
    Sampling(temperature=0.7, top_k=40),
    Sampling(temperature=1.3, top_p=0.8),
    Sampling(temperature=2.5, top_p=0.999),
    Sampling(min_p=0.05),
    Sampling(temperature=5, min_p=0.0001),
    Sampling(temperature=0.9, top_k=50, top_p=0.7, min_p=0.01),
    Sampling(typical_p=0.5),
    Sampling(temperature=1.5, top_k=20, typical_p=0.6),
    Sampling(temperature=1.1),
)


def test_what_is_left_to_choose_from_is_what_transformers_leaves() -> None:
    """Of all kinds of requests in one batch."""
    logits = logits_of(len(CUTS))
    scaled = logits / torch.tensor([one.temperature for one in CUTS])[:, None]
    kept, tokens = cut(scaled, CUTS)
    found = torch.zeros_like(logits).scatter_(1, tokens, kept / kept.sum(-1, keepdim=True))
    for row, sampling in enumerate(CUTS):
        torch.testing.assert_close(found[row], reference(logits[row], sampling), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.8), CUTS[0], CUTS[1]], ids=["plain", "top_k", "top_p"])
def test_tokens_come_as_often_as_they_should(sampling: Sampling) -> None:
    draws = 4000
    logits = logits_of(1)
    sampler = Sampler(sampling, 7, [], CPU)
    counts = torch.zeros(VOCABULARY)
    for _ in range(draws // 100):
        for token in draw(logits.repeat(100, 1), [sampler] * 100):
            counts[token] += 1
    wanted = reference(logits[0], sampling)
    assert float((counts / draws - wanted).abs().sum()) < 0.25
    assert not counts[wanted == 0].any()


def test_a_seed_gives_the_same_token_alone_and_among_others() -> None:
    logits = logits_of(6)
    samplings = [CUTS[row % len(CUTS)] for row in range(6)]
    together = draw(logits.clone(), [Sampler(one, row, [], CPU) for row, one in enumerate(samplings)])
    alone = [draw(logits[row : row + 1].clone(), [Sampler(one, row, [], CPU)]) for row, one in enumerate(samplings)]
    assert together == [token for tokens in alone for token in tokens]


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = torch.full((200, 50), -torch.inf)
    logits[:, 17] = 0.5
    samplers = [Sampler(Sampling(temperature=1 + row % 2, top_p=1 - row % 3 / 10), row, [], CPU) for row in range(200)]
    assert set(draw(logits, samplers)) == {17}


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    prompt = [3, 4, 4, 9]
    logits = logits_of(1)
    wanted = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[*prompt, 11]]), logits.clone())
    sampler = Sampler(Sampling(repetition_penalty=1.7), 0, prompt, CPU)
    sampler.accept(11)
    sampler.adjust(logits[0])
    torch.testing.assert_close(logits, wanted)


def test_frequency_and_presence_count_what_was_written() -> None:
    """OpenAI's definition: logits lose count * frequency + (count > 0) * presence; the prompt does not count."""
    logits = torch.zeros((1, 20))
    sampler = Sampler(Sampling(frequency_penalty=0.5, presence_penalty=1, logit_bias={2: 3.0}), 0, [7, 7], CPU)
    for token in (5, 5, 6):
        sampler.accept(token)
    sampler.adjust(logits[0])
    assert logits[0, [2, 5, 6, 7]].tolist() == [3, -2, -1.5, 0]


def test_log_probabilities_come_best_first() -> None:
    logits = logits_of(3)
    logits[1, 100] = logits[1, 200] = 50
    wanted = torch.log_softmax(logits.double(), -1)
    found = Logprobs(logits, [0, 2, 3]).of([4, 5, 6])
    for row, (one, token) in enumerate(zip(found, (4, 5, 6), strict=True)):
        assert one.logprob == pytest.approx(float(wanted[row, token]), abs=1e-4)
    assert [len(one.top) for one in found] == [0, 2, 3]
    assert [token for token, _ in found[1].top] == [100, 200]
    assert [token for token, _ in found[2].top] == wanted[2].argsort(descending=True)[:3].tolist()
