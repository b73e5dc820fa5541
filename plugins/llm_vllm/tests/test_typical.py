"""Typical sampling, compared with that of Transformers, in vLLM's environment."""

import os
import subprocess
from pathlib import Path

import modelrack_llm_vllm

_CODE = """
import numpy as np
import torch
from modelrack_llm_vllm.typical import TypicalP, _cut
from transformers import TypicalLogitsWarper
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns
torch.manual_seed(0)
for mass in (1e-6, 0.2, 0.5, 0.9):
    warper = TypicalLogitsWarper(mass)
    for _ in range(50):
        logits = torch.randn(200) * 3
        logits[torch.randint(0, 200, (20,))] = float("-inf")
        found, expected = _cut(mass, 0, [], logits.clone()), warper(None, logits[None].clone())[0]
        assert torch.equal(found.isinf(), expected.isinf()), mass
        assert _cut(mass, 1, [], logits.clone()).isfinite().nonzero().flatten().tolist() == [int(logits.argmax())]
processor = TypicalP(None, torch.device("cpu"), False)
assert processor.is_argmax_invariant()
for extra, is_cut in (({"typical_p": 0.5}, True), ({"typical_p": 1}, False), ({}, False), (None, False)):
    assert (processor.new_req_logits_processor(SamplingParams(extra_args=extra)) is not None) == is_cut

# Both of vLLM's model runners take it, and to the second it does what it does to the first after the temperature.
for load in (_load_logitsprocs_by_fqcns, _load_v2_logitsprocs_by_fqcns):
    assert load(["modelrack_llm_vllm.typical:TypicalP"]) == [TypicalP]
second = TypicalP(None, object())
wishes = [
    SamplingParams(temperature=0.5, extra_args={"typical_p": 0.4}),
    SamplingParams(temperature=2, top_k=30, extra_args={"typical_p": 0.4}),
    SamplingParams(temperature=1.5, min_p=0.1, extra_args={"typical_p": 0.6}),
    SamplingParams(temperature=0, extra_args={"typical_p": 0.4}),
    SamplingParams(temperature=0.7),
]
assert second.add_request(7, wishes[0])  # whose slot the third gets
assert [second.add_request(slot, wish) for slot, wish in zip((3, 5, 7, 1, 0), wishes)] == [True] * 3 + [False] * 2
given = torch.randn(5, 200) * 3
slots = np.array([3, 5, 7, 1, 0])
mapping = torch.from_numpy(slots)
context = LogitsContext(mapping, mapping, slots, mapping, mapping, mapping, slots)
found = second.apply(given.clone(), context)
for row, wish in enumerate(wishes[:3]):
    scaled = given[row] / wish.temperature
    if wish.min_p:
        scaled[scaled.softmax(0) < wish.min_p * scaled.softmax(0).max()] = float("-inf")
    kept = processor.new_req_logits_processor(wish)([], scaled).isfinite()
    assert 0 < kept.sum() < 200 and torch.equal(found[row].isfinite(), kept), row
    assert torch.equal(found[row][kept], given[row][kept])
assert torch.equal(found[3:], given[3:])
assert second.add_request(3, wishes[4]) is False and torch.equal(second.apply(given.clone(), context)[0], given[0])
print("compared")
"""


def test_what_is_kept_is_what_transformers_keeps(vllm_environment: str) -> None:
    path = str(Path(modelrack_llm_vllm.__file__).parents[1])
    done = subprocess.run(
        [f"{vllm_environment}/bin/python", "-P", "-c", _CODE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "compared" in done.stdout, done.stderr[-2000:]
