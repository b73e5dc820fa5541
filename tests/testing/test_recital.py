"""The reciting models: how texts are cut, and what a real engine says."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelrack.testing.recital import cut, write_recital

TEXTS = {"@one": "to be or not to be, that is the question", "@two": "größer 🐋 or not", "@three": "ab<|x|>cde"}

_ASK = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity, params.fit_params = sys.argv[1], 512, 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
for cue in json.loads(sys.argv[2]):
    whole = server.handle_completions({"prompt": cue, "temperature": 0, "n_predict": 99})["choices"][0]
    print(json.dumps([whole["text"], whole["finish_reason"]]))
"""


def test_pieces_all_differ_and_make_up_the_texts() -> None:
    found = cut(TEXTS.values(), ["<|x|>"])
    assert [b"".join(pieces).decode() for pieces in found] == list(TEXTS.values())
    pieces = [piece for one in found for piece in one]
    assert len(set(pieces)) == len(pieces)
    assert b"<|x|>" in pieces
    assert any(not piece.isascii() and len(piece) < 4 for piece in pieces), "no character was cut"


@given(st.lists(st.text(alphabet="abcdefghij klmnö🐋", max_size=60), max_size=4))
def test_whatever_is_cut_is_whole_again(texts: list[str]) -> None:
    try:
        found = cut(texts)
    except ValueError:
        return
    assert [b"".join(pieces).decode() for pieces in found] == texts
    pieces = [piece for one in found for piece in one]
    assert len(set(pieces)) == len(pieces)


def test_a_text_that_repeats_itself_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        cut(["ab", "ab"])


def test_a_real_engine_recites(tmp_path: Path) -> None:
    """And says nothing where no cue was given."""
    import json

    path = write_recital(tmp_path / "recital.gguf", TEXTS, controls=["<|x|>"])
    assert path.stat().st_size < 2_000_000
    command = [sys.executable, "-c", _ASK, str(path), json.dumps([*TEXTS, "hello"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said == [[text.replace("<|x|>", ""), "stop"] for text in (*TEXTS.values(), "")]
