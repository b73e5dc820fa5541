"""The conformance kit itself: engines with a fault fail it, in the tests that are about it, and a sound one passes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelrack.testing.conformance import FILE, SCRIPTS, VARIABLE, LLMConformance, Model, Subject, gguf_models

BROKEN = Path(__file__).parent / "broken"
MODULE = """
from modelrack.testing.conformance import SCRIPTS, LLMConformance, Model, Subject

OPTIONS = {{"token_delay_s": 0.001, "fault": "{fault}"}}


class Suite(LLMConformance):
    subject = Subject(
        engine="{engine}",
        models={models},
        is_random=False,
    )
"""
MODELS = '{"main": Model(name="echo", options=OPTIONS), "reciter": Model(name="echo", cue=lambda one: SCRIPTS[one])}'


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
        timeout=110,
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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(tmp_path: Path, fault: str) -> None:
    """By the tests that are about it; without the fault, they pass."""
    wanted = about(fault)
    if fault == "works_on":  # one wait is enough
        wanted += " and not whole"
    outcome = run_kit(tmp_path, "broken", fault=fault, only=wanted)
    assert outcome.code == 1 and "cannot be launched" not in outcome.output, outcome.output
    assert outcome.failed >= FAULTS[fault], outcome.output


def test_without_a_fault_nothing_is_found(tmp_path: Path) -> None:
    """By the same tests; all of them run on the sound engine with the tests of its plugin."""
    outcome = run_kit(tmp_path, "broken", only=about(*FAULTS))
    assert (outcome.code, outcome.failed) == (0, set()), outcome.output
    assert outcome.passed >= len(set().union(*FAULTS.values()))


def test_a_feature_that_is_claimed_in_vain_is_found(tmp_path: Path) -> None:
    outcome = run_kit(tmp_path, "boaster", only="bias or echo")
    assert {name.split("[")[0] for name in outcome.failed} == {
        "test_a_bias_forbids_or_forces_a_token",
        "test_echo_begins_with_the_prompt",
    }, outcome.output


def test_a_claim_that_is_no_feature_is_found(tmp_path: Path) -> None:
    outcome = run_kit(tmp_path, "dreamer", only="make_sense")
    assert outcome.failed == {"test_the_subject_and_the_claims_make_sense"}, outcome.output
    assert "telepathy" in outcome.output


def test_a_sound_engine_that_claims_nothing_runs_the_base_and_no_more(tmp_path: Path) -> None:
    outcome = run_kit(
        tmp_path,
        "modest",
        fault="refuses",
        only="shape or counts or stop or ignore_eos or bad_fields",
        **{VARIABLE: str(tmp_path)},
    )
    assert (outcome.code, outcome.failed) == (0, set()), outcome.output
    assert outcome.passed > 15
    assert "does not claim 'ignore_eos'" in outcome.output


def test_what_was_found_is_written_down(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"another": {"base": {}}}')
    outcome = run_kit(tmp_path, "broken", only="counts or logit_bias or ignore_eos", **{VARIABLE: str(tmp_path)})
    assert outcome.code == 0, outcome.output
    found: dict[str, Any] = json.loads((tmp_path / FILE).read_text())
    assert set(found) == {"another", "broken"}
    record = found["broken"]
    assert record["base"]["failed"] == 0 and record["base"]["passed"] >= 2
    assert record["features"]["ignore_eos"] == {"claimed": True, "failed": 0, "passed": 2}
    bias = record["features"]["logit_bias"]
    assert bias["claimed"] is False and "no model" in bias["reason"]


@pytest.mark.parametrize(
    ("engine", "models", "complaint"),
    [
        ("broken", "{}", "it brings no model 'main'"),
        ("broken", '{"mane": Model(name="echo")}', "'mane' is no role"),
        ("nobody", MODELS, "no plugin brings an engine 'nobody'"),
    ],
)
def test_a_subject_that_cannot_be_tested_fails_every_test(
    tmp_path: Path, engine: str, models: str, complaint: str
) -> None:
    outcome = run_kit(tmp_path, engine, models=models, only="make_sense or counts")
    assert outcome.code == 1 and outcome.passed == outcome.skipped == 0, outcome.output
    assert len(outcome.failed) >= 3 and complaint in outcome.output


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
