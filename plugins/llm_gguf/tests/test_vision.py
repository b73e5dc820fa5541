"""Images: every kind of projector gives what the library's own helper gives, alone and among others."""

import asyncio
import ctypes
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from modelrack.errors import BadRequest
from modelrack.llm.contract import Generation, MediaPrompt, Sampling
from modelrack.testing.gguf import Shape, write_random_model
from modelrack.testing.gguf_extras import ProjectorShape, write_projector
from modelrack.testing.images import break_png, inflate_png, write_png
from modelrack.testing.in_process import GREEDY, Heard, ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_gguf import bindings, mtmd
from modelrack_llm_gguf.images import NotAnImage, image_size
from modelrack_llm_gguf.model import GgufModel

EXACTLY: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
KINDS = {"mlp": "llama", "gemma3": "llama", "qwen2vl_merger": "qwen2vl"}
RED, BLUE = write_png(40, 32, (220, 40, 20)), write_png(64, 48, (10, 40, 230))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return a model and a projector of each kind."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for kind, architecture in KINDS.items():
        model = folder / f"{architecture}.gguf"
        if not model.exists():
            write_random_model(model, Shape(file_type="f32", layers=2, architecture=architecture))
        projector = write_projector(folder / f"{kind}.gguf", ProjectorShape(kind=kind))  # type: ignore[arg-type]
        found[kind] = model, projector
    return found


@pytest.fixture(params=list(KINDS))
def pair(request: pytest.FixtureRequest, models: dict[str, tuple[Path, Path]]) -> tuple[Path, Path]:
    return models[request.param]


def plan_of(pair: tuple[Path, Path], **options: Any) -> Any:
    return make_plan(pair[0], mmproj=str(pair[1]), **{**EXACTLY, **options})


def about(model: GgufModel, *images: bytes, text: str = "what is this") -> MediaPrompt:
    marks = f"{model.traits.media_mark} and " * len(images)
    return MediaPrompt(text=chat(f"{marks}{text}"), images=images)


def by_the_helper(pair: tuple[Path, Path], images: list[bytes], count: int) -> list[int]:
    """Return a greedy answer as the multimodal library's own helper and a plain loop make it."""
    api = bindings.api
    bindings.init_backend()
    params = bindings.default_context_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 1024, 512, 1, 1
    params.type_k = params.type_v = api.GGML_TYPE_F32
    params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    model = bindings.load_model(bytes(pair[0]), bindings.default_model_params())
    context = bindings.init_context(model, params)
    media_params = mtmd.default_params()
    media_params.use_gpu, media_params.n_threads = False, 1
    media = mtmd.init_context(bytes(pair[1]), model, media_params)
    options = mtmd.default_media_options()
    bitmaps = [mtmd.read_bitmap(media, image, len(image), False, options).bitmap for image in images]
    text = chat("<__media__> and " * len(images) + "what is this").encode()
    chunks = mtmd.new_chunks()
    given = mtmd.InputText(text, len(text), True, True)
    array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
    assert mtmd.tokenize(media, chunks, ctypes.byref(given), array, len(bitmaps)) == 0
    past = ctypes.c_int32(0)
    assert mtmd.api.mtmd_helper_eval_chunks(media, context, chunks, 0, 0, 512, True, ctypes.byref(past)) == 0
    position, row, batch, answer = past.value, -1, bindings.Batch(1), []
    sampler = bindings.sampler_greedy()
    for _ in range(count):
        answer.append(int(bindings.sample_quick(sampler, context, row)))
        batch.token[0], batch.position[0], batch.sequence[0], batch.wanted[0] = answer[-1], position, 0, 1
        assert bindings.decode(context, batch, 1) == 0
        position, row = position + 1, 0
    bindings.sampler_free(sampler)
    mtmd.free_chunks(chunks)
    for bitmap in bitmaps:
        mtmd.free_bitmap(bitmap)
    mtmd.free_context(media)
    bindings.free_context(context)
    bindings.free_model(model)
    return answer


@pytest.mark.parametrize("images", [[RED], [BLUE], [RED, BLUE, RED]], ids=["red", "blue", "three"])
def test_answers_are_those_of_the_library(pair: tuple[Path, Path], images: list[bytes]) -> None:
    async def scenario(model: GgufModel) -> Heard:
        return await ask(model, about(model, *images), max_tokens=24, ignore_eos=True)

    heard = run(plan_of(pair), scenario)
    expected = by_the_helper(pair, images, 24)
    assert heard.tokens[0] == expected


def test_an_image_counts_and_a_different_one_is_seen(pair: tuple[Path, Path]) -> None:
    async def scenario(model: GgufModel) -> list[Heard]:
        prompts = [about(model, RED), about(model, BLUE), about(model, RED), about(model, RED, BLUE)]
        return [await ask(model, prompt) for prompt in prompts]

    red, blue, again, both = run(plan_of(pair, prefix_cells=0), scenario)
    assert red.tokens == again.tokens
    assert len({tuple(one.tokens[0]) for one in (red, blue, both)}) == 3
    assert again.cached_tokens == 0
    assert both.prompt_tokens > red.prompt_tokens


def test_answers_are_the_same_among_others(pair: tuple[Path, Path]) -> None:
    async def scenario(model: GgufModel) -> None:
        prompts: list[Any] = [about(model, RED), chat("hello"), about(model, BLUE), about(model, BLUE, RED)]
        alone = [(await ask(model, prompt)).tokens for prompt in prompts]
        together = await asyncio.gather(*(ask(model, prompt) for prompt in prompts * 3))
        assert [heard.tokens for heard in together] == alone * 3

    run(plan_of(pair, n_parallel=6), scenario)


def test_answers_are_the_same_when_there_is_no_room_for_all(pair: tuple[Path, Path]) -> None:
    """Sequences step back, and read their images once more later."""

    async def scenario(model: GgufModel) -> None:
        prompts: list[Any] = [about(model, RED), about(model, BLUE), about(model, BLUE, RED), chat("hello")]
        fields: dict[str, Any] = {"max_tokens": 90, "ignore_eos": True}
        alone = [(await ask(model, prompt, **fields)).tokens for prompt in prompts]
        together = await asyncio.gather(*(ask(model, prompt, **fields) for prompt in prompts))
        assert [heard.tokens for heard in together] == alone
        assert model.loop.counters.preempted > 0

    run(plan_of(pair, n_parallel=4, n_ctx=256, kv_cells=256), scenario)


def test_choices_share_an_image(pair: tuple[Path, Path]) -> None:
    async def scenario(model: GgufModel) -> None:
        sampling = Sampling(temperature=0.8, seed=7)
        alone = []
        for choice in range(3):
            one = Sampling(temperature=0.8, seed=7 + choice)
            alone.append((await ask(model, about(model, RED), sampling=one)).tokens[0])
        heard = await ask(model, about(model, RED), n=3, sampling=sampling)
        assert heard.tokens == alone

    run(plan_of(pair, prefix_cells=0), scenario)


def test_an_image_that_was_read_is_not_read_again(pair: tuple[Path, Path]) -> None:
    """The next turn of a chat finds all of the turn before in the cache, the image too."""

    async def scenario(model: GgufModel) -> None:
        first = await ask(model, about(model, RED))
        again = await ask(model, about(model, RED, text="what is this thing"))
        fresh = await ask(model, about(model, RED, text="what is this thing"), cache_salt="other")
        other = await ask(model, about(model, BLUE))
        assert again.tokens == fresh.tokens != first.tokens
        assert fresh.cached_tokens == 0
        # Before the end of the image there are at most its marks and the beginning of the chat.
        assert again.cached_tokens > first.prompt_tokens // 2 > other.cached_tokens

    run(plan_of(pair), scenario)


LARGE_IMAGE = write_png(160, 112, (90, 200, 60))
"""70 tokens for a projector that scales with the image."""


@pytest.mark.parametrize("kind", ["mlp", "qwen2vl_merger"])
def test_an_image_is_computed_in_parts_where_it_can_be(models: dict[str, tuple[Path, Path]], kind: str) -> None:
    async def scenario(model: GgufModel) -> Heard:
        running = await begin(model, chat("hello"), max_tokens=400, ignore_eos=True)
        heard = await ask(model, about(model, LARGE_IMAGE), max_tokens=24, ignore_eos=True)
        assert not running.over.is_set()
        return heard

    plan = plan_of(models[kind], n_batch=32, n_ubatch=16, n_ctx=512)
    assert run(plan, scenario).tokens[0] == by_the_helper(models[kind], [LARGE_IMAGE], 24)


def test_a_prompt_that_was_left_inside_an_image_is_begun_with_again(models: dict[str, tuple[Path, Path]]) -> None:
    """What is kept of it ends before the image: no part of one is used."""

    async def scenario(model: GgufModel) -> None:
        for _ in range(4):
            running = await begin(model, chat("hello"), max_tokens=60, ignore_eos=True)
            prompt = about(model, LARGE_IMAGE)
            left = Heard(1)
            ticket = await model.submit(Generation(prompt=prompt, sampling=GREEDY, max_tokens=32), left)
            steps = model.loop.counters.steps
            while model.loop.counters.steps < steps + 3 and not left.over.is_set():
                await asyncio.sleep(0.001)
            ticket.cancel()
            heard = await ask(model, prompt, max_tokens=24, ignore_eos=True)
            assert heard.tokens[0] == expected
            await running.over.wait()

    pair = models["qwen2vl_merger"]
    expected = by_the_helper(pair, [LARGE_IMAGE], 24)
    run(plan_of(pair, n_batch=32, n_ubatch=16, n_ctx=512), scenario)


def test_an_image_that_must_be_computed_at_once_and_is_too_large_is_refused(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    projector = write_projector(tmp_path / "many.gguf", ProjectorShape(kind="gemma3", side=96))

    async def scenario(model: GgufModel) -> None:
        with pytest.raises(BadRequest, match="becomes 36 tokens, but at most 16 can be computed at once") as caught:
            await ask(model, about(model, RED))
        assert caught.value.param == "messages"

    run(plan_of((models["gemma3"][0], projector), n_batch=32, n_ubatch=16), scenario)


def test_drafts_are_not_made_of_images(models: dict[str, tuple[Path, Path]]) -> None:
    async def scenario(model: GgufModel) -> list[list[int]]:
        return (await ask(model, about(model, RED, BLUE), max_tokens=64)).tokens

    plain = run(plan_of(models["mlp"]), scenario)
    assert run(plan_of(models["mlp"], prompt_lookup=True, lookup_min=1), scenario) == plain
    assert run(plan_of(models["mlp"], draft_model=str(models["mlp"][0])), scenario) == plain


def test_images_that_cannot_be_read_are_refused(pair: tuple[Path, Path]) -> None:
    async def scenario(model: GgufModel) -> None:
        wanted = await ask(model, about(model, RED))
        for image, reason in {
            b"plain text": "unknown format",
            RED[:20]: "cut off in its header",
            RED[:90]: "Image 2 cannot be read",
            break_png(RED): "Image 2 cannot be read",
            inflate_png(RED): "46000 x 46000 pixels; at most 10000 in all",
            b"RIFF\0\0\0\0WAVEfmt ": "unknown format",
            RED + bytes(5000): "at most 4096 are read",
        }.items():
            with pytest.raises(BadRequest, match=reason) as caught:
                await ask(model, about(model, RED, image))
            assert caught.value.param == "messages"
        mark = model.traits.media_mark
        for text in (chat("no place"), f"{mark}{mark} two"):
            with pytest.raises(BadRequest, match="number of images"):
                await ask(model, MediaPrompt(text=text, images=(RED,)))
        assert (await ask(model, about(model, RED))).tokens == wanted.tokens

    run(plan_of(pair, image_max_bytes=4096, image_max_pixels=10_000, verbosity=0), scenario)


def test_a_prompt_may_not_end_with_an_image(models: dict[str, tuple[Path, Path]]) -> None:
    async def scenario(model: GgufModel) -> None:
        with pytest.raises(BadRequest, match="must not end with an image"):
            await ask(model, MediaPrompt(text=f"look: {model.traits.media_mark}", images=(RED,)))

    run(plan_of(models["mlp"]), scenario)


def test_images_count_for_the_length_of_the_context(pair: tuple[Path, Path]) -> None:
    async def scenario(model: GgufModel) -> None:
        with pytest.raises(BadRequest, match=r"\b256\b") as caught:
            await ask(model, about(model, *[RED] * 40))
        assert any(int(number) > 256 for number in caught.value.message.split() if number.isdecimal())
        assert (await ask(model, about(model, RED), max_tokens=4)).ends[0] == ("length", 4)

    run(plan_of(pair, n_ctx=256, kv_cells=256), scenario)


def test_a_client_that_leaves_while_its_image_is_read_is_forgotten(models: dict[str, tuple[Path, Path]]) -> None:
    async def scenario(model: GgufModel) -> None:
        wanted = await ask(model, about(model, BLUE))
        tasks = [asyncio.create_task(ask(model, about(model, RED), max_tokens=500)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await ask(model, about(model, BLUE))).tokens == wanted.tokens

    run(plan_of(models["mlp"]), scenario)


def test_projectors_that_do_not_fit_are_refused(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    model = models["mlp"][0]
    narrow = write_projector(tmp_path / "narrow.gguf", ProjectorShape(output=64))
    (tmp_path / "text.gguf").write_text("no projector")
    for path, reason in (
        (narrow, r"narrow\.gguf: .*mismatch between text model \(n_embd = 128\) and mmproj \(n_embd = 64\)"),
        (tmp_path / "text.gguf", "could not load the projector"),
        (tmp_path / "none.gguf", "does not exist"),
        (model, "could not load the projector"),
    ):
        assert_refused(make_plan(model, mmproj=str(path), verbosity=0), reason)


def test_images_tell_their_size_before_they_are_unpacked() -> None:
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 30, 20) + b"\x01"
    assert image_size(RED) == (40, 32)
    assert image_size(jpeg) == (20, 30)
    assert image_size(b"GIF89a" + struct.pack("<HH", 7, 9)) == (7, 9)
    assert image_size(b"BM" + bytes(12) + struct.pack("<Iii", 40, 11, -5)) == (11, 5)
    assert image_size(b"BM" + bytes(12) + struct.pack("<IHH", 12, 3, 4)) == (3, 4)
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"GIF89a", b"\xff\xd8\xff\xe0\x00\x00" * 4, RED[:18], b"BM"):
        with pytest.raises(NotAnImage):
            image_size(data)
    with pytest.raises(NotAnImage, match="no pixels"):
        image_size(b"GIF89a" + bytes(4))
