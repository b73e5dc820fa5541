"""The cache is as large as the options say, or as memory allows."""

from pathlib import Path

import pytest

from modelrack.catalog.gguf_memory import read_model
from modelrack.errors import LaunchFailed
from modelrack.testing.gguf import TINY, write_random_model
from modelrack_llm_gguf.memory import Sizes, choose_sizes
from modelrack_llm_gguf.options import LlamaCppPythonOptions

GIB = 1 << 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf", TINY)


def sizes(model: Path, free: int = GIB, **options: object) -> Sizes:
    dumped = LlamaCppPythonOptions.model_validate(options).model_dump()
    return choose_sizes(dumped, read_model(str(model)), free, on_accelerator=False)


def test_each_sequence_can_have_the_whole_context(model: Path) -> None:
    found = sizes(model)
    assert (found.n_ctx, found.n_parallel, found.cells) == (TINY.context, 8, 8 * TINY.context)
    assert found.prefix_cells == 8192
    assert found.cache_bytes == found.cells * 2 * 2 * TINY.layers * TINY.kv_heads * (TINY.width // TINY.heads)


def test_cells_are_bounded_and_may_be_fewer_than_all_sequences_need(model: Path) -> None:
    assert sizes(model, n_parallel=128).cells == 65_536
    found = sizes(model, n_ctx=1024, kv_cells=1500)
    assert (found.n_ctx, found.cells, found.prefix_cells) == (1024, 1536, 768)
    assert sizes(model, kv_cells=512).n_ctx == 512
    assert sizes(model, n_ctx=0).n_ctx == TINY.context


def test_little_memory_makes_the_context_shorter_and_too_little_is_refused(model: Path) -> None:
    one = sizes(model)
    free = one.buffer_bytes + read_model(str(model)).file_bytes + 4 * one.cache_bytes // 8
    less = sizes(model, free)
    assert less.cells < one.cells
    with pytest.raises(LaunchFailed, match="beside the weights") as caught:
        sizes(model, one.buffer_bytes, n_ctx=2048)
    assert caught.value.remedy is not None
    assert "kv_cells" in caught.value.remedy
