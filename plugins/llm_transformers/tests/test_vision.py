"""Images: through the model's own processor, and refused where they are none."""

import asyncio
import base64
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from modelrack.api.chat import ChatRequest
from modelrack.errors import BadRequest, TooManyRequests
from modelrack.llm.contract import MediaPrompt
from modelrack.llm.handlers import make_handlers
from modelrack.testing.gguf import CHATML
from modelrack.testing.hf import write_adapter, write_random_model
from modelrack.testing.hf_extras import EYE, IMAGE_TOKEN, write_seeing_model
from modelrack.testing.images import break_png, inflate_png, write_png
from modelrack.testing.in_process import Heard, ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_transformers.model import TransformersModel
from modelrack_llm_transformers.vision import Vision

RED, BLUE = write_png(40, 32, (220, 0, 0)), write_png(30, 60, (0, 0, 220))
PARTS = "{% for part in message.content %}"
LISTS = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    f"{PARTS}{{% if part.type == 'image' %}}<see><image></see>{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    "{% endfor %}{% endif %}{% endfor %}"
)
IMAGES_FIRST = (
    f"{{% for message in messages %}}USER: {PARTS}{{% if part.type == 'image' %}}<image>\n{{% endif %}}{{% endfor %}}"
    f"{PARTS}{{% if part.type == 'text' %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}{{% endfor %}}"
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing_model(tmp_path_factory.mktemp("models") / "seeing")


@pytest.fixture(scope="module")
def processor(model_path: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(model_path)


def about(*images: bytes, text: str = "What is it?") -> MediaPrompt:
    return MediaPrompt(text=chat(IMAGE_TOKEN * len(images) + text), images=images)


def test_images_change_the_answer_and_count_as_tokens(model_path: Path, tmp_path: Path) -> None:
    async def scenario(model: TransformersModel) -> list[int]:
        assert model.traits.media_mark == IMAGE_TOKEN
        blind = await ask(model, chat("What is it?"))
        red, blue, both, swapped = [
            await ask(model, about(*images)) for images in ((RED,), (BLUE,), (RED, BLUE), (BLUE, RED))
        ]
        assert len({str(heard.tokens) for heard in (blind, red, blue, both, swapped)}) == 5
        assert red.prompt_tokens == blue.prompt_tokens == blind.prompt_tokens + EYE.tokens
        assert both.prompt_tokens == blind.prompt_tokens + 2 * EYE.tokens
        assert (await ask(model, about(RED))).tokens == red.tokens
        return blind.tokens[0]

    blind = run(make_plan(model_path), scenario)
    # Without an image, it is the model that does not see.
    plain = run(make_plan(write_random_model(tmp_path / "plain")), lambda model: ask(model, chat("What is it?")))
    assert blind == plain.tokens[0]


def test_an_answer_is_that_of_transformers_itself(model_path: Path, processor: Any) -> None:
    import io

    from PIL import Image
    from transformers import AutoModelForImageTextToText

    inner = AutoModelForImageTextToText.from_pretrained(model_path)
    images = [Image.open(io.BytesIO(data)) for data in (RED, BLUE)]
    inputs = processor(text=[about(RED, BLUE).text], images=images, return_tensors="pt")
    wanted = inner.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    heard = run(make_plan(model_path), lambda model: ask(model, about(RED, BLUE), max_tokens=24))
    assert heard.tokens == [wanted]


def test_many_at_once_answer_as_alone(model_path: Path) -> None:
    prompts: list[Any] = [about(RED), about(BLUE), chat("nothing to see"), about(RED, BLUE), about(BLUE, text="Well?")]

    async def scenario(model: TransformersModel) -> None:
        alone = [(await ask(model, prompt)).tokens for prompt in prompts]
        mixed = await asyncio.gather(*(ask(model, prompt) for prompt in prompts * 3))
        assert [heard.tokens for heard in mixed] == alone * 3
        several = await ask(model, about(RED), n=3)
        assert several.tokens == alone[0] * 3

    run(make_plan(model_path, max_num_seqs=6), scenario)


def test_log_probabilities_of_prompts_know_of_images(model_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        found = []
        for image in (RED, BLUE):
            heard = await ask(model, about(image), logprobs=1, prompt_logprobs=True, max_tokens=2)
            known = heard.prompt_logprobs
            assert known is not None and len(known) == heard.prompt_tokens
            found.append([one.logprob for one in known[1:] if one is not None])
        assert found[0] != found[1]

    run(make_plan(model_path), scenario)


def test_adapters_are_chosen_for_prompts_with_images_too(model_path: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", seed=1)
    file = adapter / "adapter_config.json"
    # As peft writes it for this architecture, whose eye has layers of its own.
    config = {**json.loads(file.read_text()), "target_modules": r".*language_model.*\.down_proj"}
    file.write_text(json.dumps(config))
    tensors = adapter / "adapter_model.safetensors"
    tensors.write_bytes(_renamed(tensors.read_bytes()))

    async def scenario(model: TransformersModel) -> None:
        plain, adapted = [(await ask(model, about(RED), lora=name)).tokens for name in (None, "one")]
        assert plain != adapted
        mixed = await asyncio.gather(*(ask(model, about(RED), lora=name) for name in (None, "one") * 3))
        assert [heard.tokens for heard in mixed] == [plain, adapted] * 3

    run(make_plan(model_path, lora=[("one", adapter)]), scenario)


def _renamed(data: bytes) -> bytes:
    """Return a file of tensors of a text model with the names that they have in one that sees."""
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b"model.model.layers", b"model.model.language_model.layers").strip()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def test_images_that_cannot_be_read_are_refused(model_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        wanted = await ask(model, about(RED))
        for image, reason in {
            b"plain text": "Image 2 is of an unknown format",
            b"\x89PNG\r\n\x1a\n" + bytes(50): "Image 2",
            RED[:20]: "Image 2",
            RED[:90]: "Image 2 cannot be read",
            break_png(RED): "Image 2 cannot be read",
            inflate_png(RED): "46000 x 46000 pixels; at most 10000 in all",
            b"RIFF\0\0\0\0WAVEfmt ": "unknown format",
            b"GIF89a" + bytes(20): "Image 2",
            b"BM" + bytes(60): "Image 2",
            b"%!PS-Adobe-3.0 EPSF-3.0\n": "unknown format",
            RED + bytes(5000): "at most 4096 are read",
        }.items():
            with pytest.raises(BadRequest, match=reason) as caught:
                await ask(model, about(RED, image))
            assert caught.value.param == "messages"
        for text in (chat("no place"), chat(f"{IMAGE_TOKEN}{IMAGE_TOKEN} two")):
            with pytest.raises(BadRequest, match="number of images"):
                await ask(model, MediaPrompt(text=text, images=(RED,)))
        assert (await ask(model, about(RED))).tokens == wanted.tokens

    run(make_plan(model_path, image_max_bytes=4096, image_max_pixels=10_000), scenario)


def test_images_count_for_the_length_of_the_context(model_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        with pytest.raises(BadRequest, match=r"\b128\b"):
            await ask(model, about(*[RED] * 10))
        assert (await ask(model, about(RED), max_tokens=4)).ends[0] == ("length", 4)

    run(make_plan(model_path, max_model_len=128), scenario)


def test_too_many_images_that_wait_are_refused(processor: Any) -> None:
    vision = Vision(processor, CHATML)
    prompts = 70
    refused: list[Exception] = []

    def prepare() -> None:
        try:
            vision.prepare(about(RED))
        except TooManyRequests as error:
            refused.append(error)

    # While the processor is held, they all wait for it.
    with vision.lock:
        threads = [threading.Thread(target=prepare) for _ in range(prompts)]
        for thread in threads:
            thread.start()
        while len(refused) < prompts - 64:
            assert any(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    assert len(refused) == prompts - 64
    assert vision.prepare(about(RED)).tokens


def test_the_template_says_how_an_image_is_written(processor: Any) -> None:
    assert Vision(processor, CHATML).mark == IMAGE_TOKEN
    assert Vision(processor, LISTS).mark == "<see><image></see>"
    assert Vision(processor, IMAGES_FIRST).mark == "<image>\n"
    assert Vision(processor, "{{ raise_exception('no') }}").mark == IMAGE_TOKEN
    assert Vision(processor, "always the same").mark == IMAGE_TOKEN


def test_pictures_are_read_as_they_are_meant_to_be_seen(processor: Any) -> None:
    """Cameras turn pictures by a note in the file, and icons have transparent parts."""
    import io

    from PIL import Image

    def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **more)
        return buffer.getvalue()

    upright = Image.new("RGB", (32, 64), (200, 30, 30))
    upright.paste((20, 20, 200), (0, 0, 32, 20))
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [
        saved(upright, "PNG"),
        saved(upright.rotate(90, expand=True), "PNG", exif=turned),
        saved(upright.convert("RGBA"), "WEBP", lossless=True),
        saved(upright.quantize(4), "GIF"),
        saved(upright, "BMP"),
    ]
    vision = Vision(processor, CHATML)
    pixels = [vision.prepare(about(data)).tensors["pixel_values"] for data in files]
    for other in pixels[1:]:
        assert (other - pixels[0]).abs().max() < 0.1
    assert vision.prepare(about(saved(upright, "JPEG"))).tensors["pixel_values"].shape == pixels[0].shape


def test_a_client_that_leaves_while_its_image_is_read_is_forgotten(model_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        wanted = await ask(model, about(BLUE))
        tasks = [asyncio.create_task(ask(model, about(RED), max_tokens=500)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await ask(model, about(BLUE))).tokens == wanted.tokens

    run(make_plan(model_path), scenario)


def test_drafts_are_not_made_of_images(model_path: Path, tmp_path: Path) -> None:
    async def scenario(model: TransformersModel) -> list[Heard]:
        return [await ask(model, prompt, max_tokens=48) for prompt in (about(RED), chat("a b c a b c a b c"))]

    plain = run(make_plan(model_path), scenario)
    drafted = run(make_plan(model_path, prompt_lookup=True), scenario)
    assert [heard.tokens for heard in drafted] == [heard.tokens for heard in plain]


def test_a_model_without_its_processor_is_refused(tmp_path: Path) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = write_seeing_model(tmp_path / name)
        (path / name).write_text("{")
        assert_refused(make_plan(path), "could not load the processor")
    path = write_seeing_model(tmp_path / "blind")
    (path / "preprocessor_config.json").unlink()
    assert_refused(make_plan(path), "processor")


def test_a_model_that_does_not_see_says_so(tmp_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        assert model.traits.media_mark == ""
        assert (await begin(model, chat("x"), max_tokens=1)).error is None

    run(make_plan(write_random_model(tmp_path / "text")), scenario)


class Asked:
    """One request, as its handler sees it."""

    request_id = model_uid = "tiny"
    path = "/v1/chat/completions"

    def usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count nothing."""

    def progress(self, fraction: float) -> None:
        """Tell nothing."""

    def save(self, content: bytes, media_type: str) -> str:
        """Keep nothing."""
        raise AssertionError(media_type)


def test_a_chat_names_the_image_that_it_cannot_read(model_path: Path) -> None:
    """Addresses of this machine and of its network are not asked for images either."""
    plan = make_plan(model_path)
    good = f"data:image/png;base64,{base64.b64encode(RED).decode()}"

    def chat_of(*urls: str) -> ChatRequest:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [{"type": "text", "text": "What is it?"}, *parts]
        messages = [{"role": "user", "content": content}]
        return ChatRequest.model_validate({"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0})

    async def scenario(model: TransformersModel) -> None:
        handler = make_handlers(model, plan)["chat"]
        reply: Any = await handler(chat_of(good), Asked())
        assert reply
        for bad in (
            *(
                "http://127.0.0.1:9/a.png",
                "http://169.254.169.254/latest",
                "http://[::1]/a.png",
                "http://10.0.0.1/a.png",
            ),
            *("file:///etc/hostname", "/etc/hostname", "data:image/png;base64,AAAA", "data:image/png;base64,!"),
        ):
            with pytest.raises(BadRequest) as caught:
                await handler(chat_of(good, bad), Asked())
            assert str(caught.value.param).startswith("messages"), bad

    run(plan, scenario)
