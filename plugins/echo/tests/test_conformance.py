"""The conformance kit, pointed at the engine `echo`: it has no model, and recites what it is told."""

from modelrack.testing.conformance import SCRIPTS, LLMConformance, Model, Subject

# A token takes a moment, so that a client can leave before the answer is over.
OPTIONS = {"token_delay_s": 0.001}


class TestEcho(LLMConformance):
    subject = Subject(
        engine="echo",
        models={
            "main": Model(name="echo", options=OPTIONS),
            "reciter": Model(name="echo", cue=lambda script: SCRIPTS[script]),
        },
        is_random=False,
    )
