"""Where llguidance is not installed, constraints are refused with the reason, and all else works."""

import pytest

from llm_rig import Rig
from llm_scripted import ScriptedModel
from modelrack.errors import EngineUnavailable, UnsupportedParameter
from modelrack.llm.guided import KINDS, Vocabulary, missing


def test_what_is_missing_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"numpy"}
    monkeypatch.setattr("modelrack.llm.guided.vocabulary.find_spec", lambda name: name if name in known else None)
    assert "needs llguidance" in missing() and "modelrack[guided]" in missing()
    with pytest.raises(EngineUnavailable, match="llguidance") as caught:
        Vocabulary.of_tokens([b"a"], ends=[], encode=list)
    assert "modelrack[guided]" in (caught.value.remedy or "")
    known.add("llguidance")
    assert missing() == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "a"},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required"},
    ],
    ids=["regex", "form", "tools"],
)
async def test_a_request_is_told_why_its_constraint_cannot_be_had(fields: dict[str, object]) -> None:
    rig = Rig(ScriptedModel("x", constraints=frozenset(), no_constraints="it needs llguidance where the model runs"))
    with pytest.raises(UnsupportedParameter, match="it needs llguidance where the model runs"):
        await rig.chat(**fields)
    able = Rig(ScriptedModel("x", constraints=KINDS))
    assert (await able.chat())["message"]["content"] == "x"
