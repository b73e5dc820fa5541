"""Typical sampling, compared with that of Transformers, in vLLM's environment."""

import os
import subprocess
from pathlib import Path

import modelrack_llm_vllm

_CODE = """
import torch
from modelrack_llm_vllm.typical import TypicalP, _cut
from transformers import TypicalLogitsWarper
from vllm import SamplingParams
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
