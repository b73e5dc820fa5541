"""The conformance kit itself: engines with a fault fail it, in the tests that are about it, and a sound one passes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelrack.testing.conformance import FILE, SCRIPTS, VARIABLE, LLMConformance, Model, Subject, gguf_models

# The first test waits for all runs.
pytestmark = pytest.mark.timeout(400)

BROKEN = Path(__file__).parent / "broken"
MODULE = """
from modelrack.testing.conformance import SCRIPTS, LLMConformance, Model, Subject

OPTIONS = {{"token_delay_s": 0.001, "fault": "{fault}"}}


class Suite(LLMConformance):
    subject = Subject(
        engine="{engine}",
        models={models},
        is_random=False,
        idle_s=1,
    )
"""
MODELS = '{"main": Model(name="echo", options=OPTIONS), "reciter": Model(name="echo", cue=lambda one: SCRIPTS[one])}'
PLAIN = '{"main": Model(name="echo", options={"token_delay_s": 0.001})}'


class Outcome:
    """What pytest said.

    Args:
        failed: the names of the tests that failed, without the class.
    """

    def __init__(self, output: str, code: int) -> None:
        self.output = output
        self.code = code
        self.failed = set(re.findall(r"^(?:FAILED|ERROR) \S+?::Suite::(\S+)", output, re.MULTILINE))
        counts = dict(
            (word, int(number)) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)
        )
        self.passed = counts.get("passed", 0)
        self.skipped = counts.get("skipped", 0)


def run_kit(
    folder: Path, engine: str, *, fault: str = "none", models: str = MODELS, only: str = "", **env: str
) -> Outcome:
    """Run the kit on an engine of the broken plugin, as an author would, and return the outcome."""
    installed = folder / "installed" / "modelrack_broken-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: modelrack-broken\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[modelrack]\nbroken = modelrack_broken.plugin\n")
    module = folder / "test_broken.py"
    module.write_text(MODULE.format(engine=engine, fault=fault, models=models))
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-W", "error", "-p", "no:cacheprovider", str(module)]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), "-k", only],
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join((str(installed.parent), str(BROKEN))),
            **env,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Outcome(done.stdout + done.stderr, done.returncode)


def each(*names: str, ids: tuple[str, ...] = ("chat", "completion")) -> set[str]:
    return {f"test_{name}[{one}]" for name in names for one in ids}


FAULTS = {
    "mixes": each("16_at_once_are_answered_as_each_alone", ids=("chat",)),
    "miscounts": each("counts_are_true"),
    "drops": each("answers_have_the_promised_shape_streamed_or_not", ids=("chat-limited", "completion-limited")),
    "runs_on": each("a_stop_string_ends_the_answer_before_it", "the_stop_string_that_comes_first_wins"),
    "obeys_silently": each("a_feature_is_claimed_and_tested_or_refused", ids=("logit_bias", "logprobs", "tools")),
    "fails": each("texts_of_any_kind_are_no_failures"),
    "works_on": each("a_client_that_leaves_stops_the_work", ids=("stream",)),
}


def about(*faults: str) -> str:
    """Return what chooses the tests that are about some faults."""
    return " or ".join(sorted({re.sub(r"^test_|\[.*", "", name) for fault in faults for name in FAULTS[fault]}))


COMPLAINTS = {
    "no model": ("broken", "{}", "it brings no model 'main'"),
    "no role": ("broken", '{"mane": Model(name="echo")}', "'mane' is no role"),
    "no engine": ("nobody", MODELS, "no plugin brings an engine 'nobody'"),
}


def runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the kit is run on, by names: arguments of `run_kit`."""
    found: dict[str, dict[str, Any]] = {fault: {"fault": fault, "only": about(fault)} for fault in FAULTS}
    found["works_on"]["only"] += " and not whole"  # one wait is enough
    found["none"] = {"only": about(*FAULTS)}
    found["boaster"] = {"engine": "boaster", "only": "bias or echo"}
    found["dreamer"] = {"engine": "dreamer", "only": "make_sense"}
    modest = "shape or counts or stop or ignore_eos or bad_fields"
    found["modest"] = {"engine": "modest", "fault": "refuses", "only": modest, VARIABLE: str(folder / "modest")}
    found["recorded"] = {"only": "counts or logit_bias or ignore_eos", VARIABLE: str(folder)}
    (folder / FILE).write_text('{"another": {"base": {}}}')
    command = "leaves_stops or aborted_by or killed_comes or promised_shape or becomes_tokens or several_prompts"
    found["command"] = {"engine": "echo-command", "models": PLAIN, "only": command}
    for name, (engine, models, _) in COMPLAINTS.items():
        found[name] = {"engine": engine, "models": models, "only": "make_sense or counts"}
    return found


@dataclass(frozen=True)
class Outcomes:
    """What came out.

    Args:
        record: what one of the runs has written.
    """

    by_name: Mapping[str, Outcome]
    record: Path

    def __getitem__(self, name: str) -> Outcome:
        return self.by_name[name]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Run the kit on everything, several at a time: most of it is waiting."""
    folder = tmp_path_factory.mktemp("record")
    wanted = runs(folder)

    def run(name: str) -> Outcome:
        return run_kit(tmp_path_factory.mktemp("run"), **{"engine": "broken", **wanted[name]})

    with ThreadPoolExecutor(4) as pool:
        return Outcomes(dict(zip(wanted, pool.map(run, wanted), strict=True)), folder / FILE)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(outcomes: Outcomes, fault: str) -> None:
    """By the tests that are about it; without the fault, they pass."""
    outcome = outcomes[fault]
    assert outcome.code == 1 and "cannot be launched" not in outcome.output, outcome.output
    assert outcome.failed >= FAULTS[fault], outcome.output


def test_without_a_fault_nothing_is_found(outcomes: Outcomes) -> None:
    """By the same tests; all of them run on the sound engine with the tests of its plugin."""
    outcome = outcomes["none"]
    assert (outcome.code, outcome.failed) == (0, set()), outcome.output
    assert outcome.passed >= len(set().union(*FAULTS.values()))


def test_a_command_worker_is_tested_as_far_as_it_serves(outcomes: Outcomes) -> None:
    """What computes is its command: that is killed, and its guard must notice."""
    outcome = outcomes["command"]
    assert (outcome.code, outcome.failed) == (0, set()), outcome.output
    assert outcome.passed >= 5
    for path in ("/v1/completions", "/v1/tokenize"):
        assert f"'echo-command' does not serve {path}" in outcome.output, outcome.output


def test_a_feature_that_is_claimed_in_vain_is_found(outcomes: Outcomes) -> None:
    outcome = outcomes["boaster"]
    assert {name.split("[")[0] for name in outcome.failed} == {
        "test_a_bias_forbids_or_forces_a_token",
        "test_echo_begins_with_the_prompt",
    }, outcome.output


def test_a_claim_that_is_no_feature_is_found(outcomes: Outcomes) -> None:
    outcome = outcomes["dreamer"]
    assert outcome.failed == {"test_the_subject_and_the_claims_make_sense"}, outcome.output
    assert "telepathy" in outcome.output


def test_a_sound_engine_that_claims_nothing_runs_the_base_and_no_more(outcomes: Outcomes) -> None:
    outcome = outcomes["modest"]
    assert (outcome.code, outcome.failed) == (0, set()), outcome.output
    assert outcome.passed > 15
    assert "does not claim 'ignore_eos'" in outcome.output


def test_what_was_found_is_written_down(outcomes: Outcomes) -> None:
    outcome = outcomes["recorded"]
    assert outcome.code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcomes.record.read_text())
    assert set(found) == {"another", "broken"}
    record = found["broken"]
    assert record["base"]["failed"] == 0 and record["base"]["passed"] >= 2
    assert record["features"]["ignore_eos"] == {"claimed": True, "failed": 0, "passed": 2}
    bias = record["features"]["logit_bias"]
    assert bias["claimed"] is False and "no model" in bias["reason"]


@pytest.mark.parametrize("name", COMPLAINTS)
def test_a_subject_that_cannot_be_tested_fails_every_test(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[name]
    assert outcome.code == 1 and outcome.passed == outcome.skipped == 0, outcome.output
    assert len(outcome.failed) >= 3 and COMPLAINTS[name][2] in outcome.output


def test_a_suite_is_collected_whatever_its_name() -> None:
    class Whatever(LLMConformance):
        subject = Subject(engine="echo", models={"main": Model(name="echo")})

    assert Whatever.__test__ and not LLMConformance.__test__


def test_a_suite_without_a_subject_or_with_tests_taken_out_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="needs `subject"):
        type("Empty", (LLMConformance,), {})
    subject = Subject(engine="echo", models={"main": Model(name="echo")})
    with pytest.raises(TypeError, match="test_counts_are_true"):
        type("Cut", (LLMConformance,), {"subject": subject, "test_counts_are_true": None})
    with pytest.raises(TypeError, match="__init__"):
        type("Made", (LLMConformance,), {"subject": subject, "__init__": lambda self: None})


def test_gguf_models_are_for_every_role() -> None:
    assert Subject(engine="any", models=gguf_models()).problems() == []
    assert set(gguf_models(projector=None, draft=None)) == {"main", "reciter", "adapted"}
    assert all(gguf_models()["reciter"].cue(name) for name in SCRIPTS)  # type: ignore[misc]
