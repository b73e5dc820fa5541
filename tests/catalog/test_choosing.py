"""The ranked list of what could be launched, and what is told of it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict

from catalog.gguf_files import write_gguf
from catalog.racks import ABSENT, LLAMA, TORCH, llm_plugins, machine, takes
from modelrack.api.launch import LaunchRequest
from modelrack.catalog.catalog import Catalog
from modelrack.catalog.choosing import Option, rank_options, why_later
from modelrack.catalog.planning import Running, make_plan, make_room
from modelrack.catalog.resolution import Choices, resolve, settle, survey
from modelrack.errors import BadRequest, EngineUnavailable, NoEngine
from modelrack.hooks import (
    Accelerator,
    Candidate,
    Engine,
    Environment,
    Family,
    LoadPlan,
    Machine,
    MemoryEstimate,
    Options,
    Source,
    Variant,
)
from modelrack.hooks.loader import Plugins
from modelrack.lifecycle.store import Measured

HF = "huggingface"
GIB = 1 << 30
OWN = replace(ABSENT, environment=Environment(requirements=("big",), by_device={"cpu": ("small",), "cuda": ("fast",)}))


def gguf(size: float | None, *quantizations: str) -> Variant:
    source = Source(hub=HF, repo="a/b-GGUF", quantizations=quantizations, file="b-{quantization}.gguf")
    return Variant(format="gguf", size_b=size, sources=(source,))


def pytorch(size: float) -> Variant:
    return Variant(format="pytorch", size_b=size, sources=(Source(hub=HF, repo=f"a/b-{size}B"),))


class Bench:
    """What choosing needs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = machine(16)
        self.plugins: Plugins = llm_plugins()
        self.built: set[str] = set()
        self.measured: dict[str, Measured] = {}

    def has(self, *variants: Variant, engines: tuple[Engine, ...] = (LLAMA, TORCH)) -> None:
        family = Family(name="tiny", model_type="LLM", abilities=("chat",), variants=variants, context_length=8192)
        self.plugins = llm_plugins(family, engines=engines)

    def request(self, **parameters: Any) -> LaunchRequest:
        return LaunchRequest.model_validate({"model_name": "tiny", **parameters})

    def survey(self, **parameters: Any) -> Choices:
        def recall(engine: Engine, plan: LoadPlan) -> Measured | None:
            return self.measured.get(engine.name)

        return survey(self.request(**parameters), *self._world(), lambda engine: engine.name in self.built, recall)

    def _world(self) -> tuple[Catalog, Plugins, Machine, str, Path]:
        catalog = Catalog(self.plugins, self.folder / "custom")
        return catalog, self.plugins, self.machine, HF, self.folder / "models"

    def order(self, **parameters: Any) -> list[tuple[str, float | None, str]]:
        choices = self.survey(**parameters)
        chosen = settle(choices)
        first = choices.options[0]
        assert (chosen.engine, chosen.variant, chosen.quantization) == (
            first.engine,
            first.form.variant,
            first.form.quantization,
        )
        return [(o.engine.name, o.form.variant.size_b, o.form.quantization) for o in choices.options]

    def why(self, place: int, **parameters: Any) -> str:
        options = self.survey(**parameters).options
        return why_later(options[0], options[place])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def cards(memory_gb: float, count: int = 1) -> Machine:
    devices = tuple(
        Accelerator(
            index=index,
            kind="cuda",
            name="card",
            memory_total_bytes=int(memory_gb * 1e9),
            memory_free_bytes=int(memory_gb * 1e9),
        )
        for index in range(count)
    )
    return replace(machine(64), accelerators=devices)


# The order


def test_a_rank_may_depend_on_the_model_and_the_machine(bench: Bench) -> None:
    def rank(candidate: Candidate, here: Machine) -> int:
        return 90 if here.accelerators and candidate.variant.size_b == 7 else 1

    bench.has(pytorch(7), gguf(7, "Q8_0"), pytorch(1), engines=(LLAMA, replace(TORCH, rank=rank)))
    assert bench.order()[0] == ("llama.cpp", 7, "Q8_0")
    bench.machine = cards(40)
    assert bench.order() == [("Transformers", 7, "none"), ("llama.cpp", 7, "Q8_0"), ("Transformers", 1, "none")]
    assert "llama.cpp ranks lower for it (10) than Transformers (90)" in bench.why(1)


def test_a_rank_that_fails_is_the_engines_reason(bench: Bench) -> None:
    def rank(candidate: Candidate, here: Machine) -> int:
        raise KeyError("rank")

    bench.has(pytorch(7), gguf(7, "Q8_0"), engines=(LLAMA, replace(TORCH, rank=rank)))
    choices = bench.survey()
    assert [option.engine.name for option in choices.options] == ["llama.cpp"]
    assert choices.refused["Transformers"] == "its check failed: KeyError: 'rank'; it takes pytorch, not gguf"


def test_the_quantization_is_chosen_by_memory(bench: Bench) -> None:
    bench.has(gguf(7, "Q2_K", "Q3_K_M", "Q4_K_M", "Q8_0"))
    chosen: dict[float, str] = {}
    for memory_gb in (16, 6, 5, 4, 3):
        bench.machine = machine(memory_gb)
        chosen[memory_gb] = bench.order()[0][2]
    assert chosen == {16: "Q4_K_M", 6: "Q4_K_M", 5: "Q3_K_M", 4: "Q2_K", 3: "Q2_K"}
    bench.machine = machine(5)
    assert bench.why(1) == "Q3_K_M is preferred to Q2_K"
    assert bench.why(2).startswith("llama.cpp would not fit with Q4_K_M: it needs about")
    assert bench.survey(quantization="Q8_0").options[0].fit.fits is False, "what is named is taken"


def test_a_smaller_size_goes_before_a_coarse_quantization(bench: Bench) -> None:
    bench.has(gguf(7, "IQ2_M", "IQ3_XXS", "Q4_K_M"), gguf(3, "Q2_K", "Q4_K_M"))
    bench.machine = machine(4.6)
    assert bench.order()[:3] == [("llama.cpp", 3, "Q4_K_M"), ("llama.cpp", 7, "IQ3_XXS"), ("llama.cpp", 7, "IQ2_M")]
    assert bench.why(1) == "IQ3_XXS costs quality"
    bench.machine = machine(16)
    assert bench.order()[0] == ("llama.cpp", 7, "Q4_K_M")
    assert bench.why(1) == "3B is smaller than 7B"


def test_an_engine_that_fits_goes_before_one_that_ranks_higher(bench: Bench) -> None:
    bench.has(pytorch(7), gguf(7, "Q4_K_M"), engines=(LLAMA, replace(TORCH, rank=50)))
    assert bench.order()[0] == ("llama.cpp", 7, "Q4_K_M"), "14 GB of weights are too tight in 16"
    bench.machine = machine(32)
    assert bench.order()[0] == ("Transformers", 7, "none")


def test_what_is_on_this_machine_goes_first_even_if_it_is_tight(bench: Bench, tmp_path: Path) -> None:
    here = write_gguf(tmp_path / "here" / "b-Q8_0.gguf", {"general.file_type": 7})
    local = Source(hub="file", repo=str(here.parent), quantizations=("Q8_0",), file="b-{quantization}.gguf")
    bench.has(gguf(7, "Q4_K_M"), Variant(format="gguf", size_b=0.5, sources=(local,)), pytorch(7))
    assert bench.order()[0] == ("llama.cpp", 0.5, "Q8_0")
    assert bench.why(1) == "its files are not on this machine"


def test_free_memory_is_that_of_the_devices_used(bench: Bench) -> None:
    bench.has(*(gguf(size, "Q4_K_M") for size in (1, 8, 32)))
    bench.machine = cards(8, 4)
    assert bench.order()[0][1] == 8
    assert bench.order(n_gpu=4)[0][1] == 32
    assert bench.order(n_gpu=None)[0][1] == 32
    assert bench.order(gpu_idx=[1, 2, 3])[0][1] == 32
    assert bench.order(n_gpu=None, replica=3)[0][1] == 8
    with pytest.raises(BadRequest, match="GPU 9 does not exist"):
        bench.order(gpu_idx=9)


def test_options_count(bench: Bench) -> None:
    """A longer context takes more."""

    def estimate(plan: LoadPlan, here: Machine) -> MemoryEstimate:
        return MemoryEstimate(weights_bytes=GIB, cache_bytes=plan.options["n_ctx"] << 20)

    bench.has(pytorch(7), gguf(7, "Q4_K_M"), engines=(replace(LLAMA, estimate=estimate, rank=1), TORCH))
    assert bench.survey(model_engine="llama.cpp", n_ctx=8192).options[0].fit.fits is True
    assert bench.survey(model_engine="llama.cpp", n_ctx=32768).options[0].fit.fits is False
    bench.machine = machine(64)
    assert bench.order()[0][0] == "Transformers"
    with pytest.raises(BadRequest, match="Engine 'Transformers' has no option 'nctx'"):
        bench.order(nctx=8192)


def test_what_no_hub_here_has_comes_last(bench: Bench) -> None:
    elsewhere = replace(gguf(7, "Q4_K_M"), sources=(Source(hub="modelscope", repo="a/b", quantizations=("Q4_K_M",)),))
    bench.has(elsewhere, gguf(1, "Q4_K_M"))
    bench.machine = machine(64)
    assert bench.order()[0] == ("llama.cpp", 1, "Q4_K_M")
    assert "Hub 'modelscope' is not installed" in bench.why(1)
    with pytest.raises(EngineUnavailable, match="Hub 'modelscope' is not installed"):
        bench.order(model_size_in_billions=7)


def test_options_choose_no_engine(bench: Bench) -> None:
    """A mistyped option must not make the server build an environment for another engine, which may take anything."""

    class Open(Options):
        model_config = ConfigDict(extra="allow")

    bench.has(pytorch(1), gguf(1, "Q4_K_M"), engines=(replace(LLAMA, rank=99), replace(TORCH, options=Open)))
    assert bench.order()[0][0] == "llama.cpp"
    with pytest.raises(BadRequest, match=r"Engine 'llama.cpp' has no option 'nctx'"):
        bench.order(nctx=1)
    with pytest.raises(BadRequest, match="n_ctx"):
        bench.order(n_ctx="many")


def test_adapters_need_an_engine_that_takes_them(bench: Bench) -> None:
    bench.has(pytorch(1), gguf(1, "Q4_K_M"), engines=(LLAMA, replace(TORCH, takes_lora=True)))
    adapters = {"lora_list": [{"lora_name": "x", "local_path": "/nowhere"}]}
    assert bench.order(peft_model_config=adapters)[0][0] == "Transformers"
    assert bench.why(1, peft_model_config=adapters) == "Engine 'llama.cpp' takes no LoRA adapters"


def test_sorting_is_pure_and_total(bench: Bench) -> None:
    bench.has(pytorch(7), gguf(7, "Q4_K_M", "Q8_0"), gguf(1, "Q4_K_M"))
    options = list(bench.survey().options)
    assert rank_options(options[::-1]) == options == rank_options(options[2:] + options[:2])
    assert why_later(options[0], options[0]) == "it is the same"


# Environments


def test_an_engine_with_an_environment_of_its_own_is_no_absent_one(bench: Bench) -> None:
    bench.has(pytorch(7), engines=(OWN,))
    bench.machine = machine(64)
    choices = bench.survey()
    assert (choices.options[0].verdict.where, choices.options[0].verdict.is_built) == ("isolated", False)
    assert settle(choices).where == "isolated"
    bench.built.add("vLLM")
    assert bench.survey().options[0].verdict.is_built is True
    with pytest.raises(NoEngine, match="no_such_engine_library cannot be found"):
        bench.survey(environment="server")
    with pytest.raises(EngineUnavailable, match="not installed here"):
        bench.survey(environment="server", model_engine="vLLM")
    assert bench.survey(environment="/opt/own").options[0].verdict.where == "path"


def test_an_engine_without_one_runs_beside_the_server_alone(bench: Bench) -> None:
    bench.has(gguf(7, "Q4_K_M"), engines=(LLAMA, ABSENT))
    assert bench.survey().options[0].verdict.where == "server"
    with pytest.raises(NoEngine, match="it declares no environment of its own"):
        bench.survey(environment="isolated")
    with pytest.raises(EngineUnavailable, match="declares no environment of its own") as caught:
        bench.survey(environment="isolated", model_engine="llama.cpp")
    assert caught.value.param == "environment"


def test_rank_goes_before_an_environment_that_is_there(bench: Bench) -> None:
    bench.machine = machine(64)
    bench.has(pytorch(7), engines=(OWN, replace(TORCH, rank=10)))
    assert bench.order()[0][0] == "vLLM"
    bench.has(pytorch(7), engines=(OWN, replace(TORCH, rank=OWN.rank, name="zzz")))
    assert bench.order()[0][0] == "zzz"
    assert bench.why(1) == "the environment of vLLM has to be built"
    bench.built.add("vLLM")
    assert bench.order()[0][0] == "vLLM"
    assert bench.why(1) == "zzz ranks as high as vLLM, which comes first by name"


# The plan


def test_a_plan_tells_it_all(bench: Bench) -> None:
    bench.machine = cards(24, 2)
    bench.has(
        pytorch(7),
        gguf(7, "Q4_K_M", "Q8_0"),
        engines=(LLAMA, replace(OWN, rank=99), replace(TORCH, accepts=takes("x"))),
    )
    request = bench.request(virtual_env_packages=["more>=1"])
    plan = make_plan(
        bench.survey(virtual_env_packages=["more>=1"], model_engine="vLLM"), request, bench.machine, (), 123
    )
    choice = plan.choice
    assert (choice.model_engine, choice.model_format, choice.model_size_in_billions, choice.rank) == (
        "vLLM",
        "pytorch",
        7,
        99,
    )
    assert choice.environment.model_dump() == {
        "where": "isolated",
        "is_built": False,
        "path": None,
        "name": None,
        "size_bytes": None,
        "requirements": ["big", "fast", "more>=1"],
    }
    assert choice.download.model_dump() == {"bytes": 123, "path": None, "hub": HF, "repo": "a/b-7B"}
    assert choice.memory is not None and choice.memory.basis == "size"
    assert choice.memory.weights_bytes == 14_000_000_000
    assert choice.reason == "nothing else runs here in the form that is asked for"
    plan = make_plan(bench.survey(), bench.request(), bench.machine)
    assert [other.model_engine for other in plan.alternatives] == ["llama.cpp", "llama.cpp"]
    assert plan.alternatives[0].reason == "llama.cpp ranks lower for it (10) than vLLM (99)"
    assert plan.choice.reason == f"best of 3: {plan.alternatives[0].reason}"
    assert plan.alternatives[0].download.bytes is None
    assert plan.refused == {"Transformers": "it takes x, not pytorch; it takes x, not gguf"}
    assert [(device.kind, device.index, device.is_used) for device in plan.devices] == [
        ("cpu", None, False),
        ("cuda", 0, True),
        ("cuda", 1, False),
    ]
    assert plan.room.model_dump() == {"lacking_bytes": 0, "models": [], "is_enough": True}


def test_measured_figures_are_used(bench: Bench, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m-Q8_0.gguf", {"general.file_type": 7, "general.size_label": "1B"})
    bench.has(engines=(LLAMA,))
    before = bench.survey(model_name=str(path)).options[0].fit.reckoned
    assert before.basis == "files"
    bench.measured["llama.cpp"] = Measured(host_bytes=5 * GIB, device_bytes=0)
    request = bench.request(model_name=str(path))
    plan = make_plan(bench.survey(model_name=str(path)), request, bench.machine)
    assert plan.choice.memory is not None
    assert (plan.choice.memory.basis, plan.choice.memory.total_bytes) == ("measured", 5 * GIB)
    assert plan.choice.fit_reason.startswith("needs 5.00 GiB of")


def option_lacking(bench: Bench, host: float, devices: Mapping[int, float] | None = None) -> tuple[Option, list[int]]:
    (option,) = bench.survey().options
    used = list(devices or ())
    fit = replace(
        option.fit,
        fits=False,
        lacking_host_bytes=int(host * GIB),
        lacking_device_bytes=int(sum((devices or {}).values()) * GIB),
    )
    return replace(option, fit=fit), used


def running(uid: str, host: float, **devices: float) -> Running:
    held = {int(index[1:]): int(gib * GIB) for index, gib in devices.items()}
    return Running(model_uid=uid, host_bytes=int(host * GIB), device_bytes=held)


def test_what_would_have_to_go(bench: Bench) -> None:
    bench.has(gguf(7, "Q4_K_M"), engines=(LLAMA,))
    models = [running("small", 1), running("large", 6), running("middle", 3)]
    option, used = option_lacking(bench, 5)
    assert [model.model_uid for model in make_room(option, models, used).models] == ["large"]
    option, used = option_lacking(bench, 8)
    room = make_room(option, models, used)
    assert [(model.model_uid, model.frees_bytes) for model in room.models] == [("large", 6 * GIB), ("middle", 3 * GIB)]
    assert room.is_enough and room.lacking_bytes == 8 * GIB
    option, used = option_lacking(bench, 11)
    room = make_room(option, models, used)
    assert (room.models, room.is_enough) == ([], False), "nothing would help"


def test_only_models_on_the_devices_used_help(bench: Bench) -> None:
    bench.has(gguf(7, "Q4_K_M"), engines=(LLAMA,))
    models = [running("elsewhere", 1, d1=20), running("here", 1, d0=5), running("both", 1, d0=2, d1=9)]
    option, used = option_lacking(bench, 0, {0: 6})
    assert [model.model_uid for model in make_room(option, models, used).models] == ["here", "both"]
    option, used = option_lacking(bench, 2, {0: 1})
    assert [model.model_uid for model in make_room(option, models, used).models][:1] == ["here"]


def test_resolve_is_the_first_of_the_survey(bench: Bench) -> None:
    bench.has(pytorch(7), gguf(7, "Q4_K_M", "Q8_0"), gguf(1, "Q4_K_M"))
    found = resolve(bench.request(), *bench._world())
    assert (found.engine.name, found.variant.size_b, found.quantization) == bench.order()[0]
