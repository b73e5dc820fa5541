"""Weights of fewer bits, where the packages are there that compute them; else what is missing."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from modelrack.testing.gguf import Shape
from modelrack.testing.hf import write_random_model
from modelrack.testing.in_process import ask, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

HAS_BITSANDBYTES = find_spec("bitsandbytes") is not None
WIDE = Shape(width=256, hidden=512, layers=2)


def quantized(folder: Path, **config: Any) -> Path:
    """Return a model that says that its weights are quantized."""
    path = write_random_model(folder)
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))
    return path


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="bitsandbytes is installed here")
@pytest.mark.parametrize("wanted", ["bnb-8bit", "bnb-4bit"])
def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path, wanted: str) -> None:
    path = write_random_model(tmp_path / "plain")
    assert_refused(
        make_plan(path, quantization=wanted), "bitsandbytes.*not in the engine's", "pip install bitsandbytes"
    )


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed here")
@pytest.mark.parametrize("wanted", ["bnb-8bit", "bnb-4bit"])
def test_weights_are_quantized_while_loading(tmp_path: Path, wanted: str) -> None:
    path = write_random_model(tmp_path / "plain", WIDE)
    plain, small = (
        run(make_plan(path, quantization=name), lambda model: ask(model, chat("one two"), logprobs=0, max_tokens=1))
        for name in ("none", wanted)
    )
    assert small.logprobs[0][0].logprob == pytest.approx(plain.logprobs[0][0].logprob, abs=2.0)
    assert small.logprobs[0][0].logprob != plain.logprobs[0][0].logprob


@pytest.mark.parametrize(
    ("config", "package"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, "gptqmodel"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "hqq"}, "hqq"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_that_nothing_here_computes_are_refused(tmp_path: Path, config: dict[str, Any], package: str) -> None:
    if all(find_spec(name.replace("-", "_")) is not None for name in package.split()):
        pytest.skip(f"{package} is installed here")
    path = quantized(tmp_path / "quantized", **config)
    assert_refused(make_plan(path), f"quantized by {config['quant_method']} need packages", f"pip install {package}")


def test_methods_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    configs: tuple[dict[str, Any], ...] = ({"quant_method": "magic"}, {"bits": 4}, {"quant_method": ["gptq"]})
    for number, config in enumerate(configs):
        path = quantized(tmp_path / str(number), **config)
        assert_refused(make_plan(path), "cannot be used here|could not read the configuration")


def test_quantized_weights_are_not_quantized_again(tmp_path: Path) -> None:
    path = quantized(tmp_path / "quantized", quant_method="fp8", weight_block_size=[128, 128])
    assert_refused(
        make_plan(path, quantization="bnb-4bit"), "quantized already .fp8.", "without the option quantization"
    )


def test_compiling_is_refused_where_it_would_not_be_done(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "plain")
    assert_refused(make_plan(path, compile=True), "needs an accelerator", "without the option compile")
