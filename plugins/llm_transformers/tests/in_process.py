"""The engine in the test's own process."""

from modelrack.testing.in_process import InProcess
from modelrack_llm_transformers.model import load_model
from modelrack_llm_transformers.options import TransformersOptions

__all__ = ["assert_refused", "make_plan", "opened", "run", "start"]

_engine = InProcess(load_model, TransformersOptions, form="pytorch", defaults={"n_threads": 1, "warmup": False})

make_plan = _engine.make_plan
opened = _engine.opened
run = _engine.run
start = _engine.start
assert_refused = _engine.assert_refused
