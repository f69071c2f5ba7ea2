"""Without compression, the service's tokens are those of the whole model."""

import pytest
import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.v1 import generation_pb2

from llm_service.prompts.prompt import ChatPrompt, PromptEncoder, Turn
from tests.integration.llm.support import Caller, picture, together

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASK = "USER: <image>\nWhat is this? ASSISTANT:"
# (width, height): every grid of both sets of pinpoints, odd sizes, strips, tiny images.
SIZES = [(112, 112), (224, 224), (300, 90), (90, 300), (301, 97), (37, 61), (640, 480), (400, 60), (61, 400), (9, 8)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_one_image(caller: Caller, size: tuple[int, int]):
    image = picture(*size)
    expected = caller.whole.generate(ASK, [image], max_new_tokens=24)
    answer = await caller.generate(ASK, [caller.whole.tokens(image)], max_new_tokens=24)
    assert answer.token_ids == expected


async def test_several_images(caller: Caller):
    images = [picture(112, 112, 1), picture(300, 90, 2), picture(50, 80, 3)]
    prompt = "USER: <image> and <image>\n<image> Compare. ASSISTANT:"
    expected = caller.whole.generate(prompt, images, max_new_tokens=24)
    answer = await caller.generate(prompt, [caller.whole.tokens(image) for image in images], max_new_tokens=24)
    assert answer.token_ids == expected
    assert answer.summary.usage.prompt_tokens == len(
        caller.whole.processor(text=prompt, images=images, return_tensors="pt")["input_ids"][0]
    )


async def test_adjacent_and_repeated_images(caller: Caller):
    image = picture(112, 112, 4)
    tokens = caller.whole.tokens(image)
    expected = caller.whole.generate("<image><image>?", [image, image], max_new_tokens=12)
    assert (await caller.generate("<image><image>?", [tokens, tokens], max_new_tokens=12)).token_ids == expected


async def test_text_only(caller: Caller):
    prompt = "USER: How are you?  Näher — ✓ ASSISTANT:"
    expected = caller.whole.generate(prompt, [], max_new_tokens=32)
    answer = await caller.generate(prompt, max_new_tokens=32)
    assert answer.token_ids == expected
    usage = answer.summary.usage
    assert (usage.vision_tokens, usage.newline_tokens, usage.wire_bytes) == (0, 0, 0)


async def test_chat(caller: Caller):
    image = picture(200, 100, 5)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]
    inputs = caller.whole.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    expected = caller.whole.continuation(inputs, max_new_tokens=24)
    part = generation_pb2.ContentPart
    message = generation_pb2.ChatMessage(
        role="user", parts=[part(image=generation_pb2.ImagePart()), part(text="What is this?")]
    )
    prompt = generation_pb2.Prompt(chat=generation_pb2.Chat(messages=[message]))
    answer = await caller.generate(prompt, [caller.whole.tokens(image)], max_new_tokens=24)
    assert answer.token_ids == expected


async def test_a_question_that_spells_special_tokens(caller: Caller):
    """The ids are those of test_prompt, where the words come out as text."""
    text = "Say <image>, </s><pad>."
    encoder = PromptEncoder(Checkpoint(str(caller.whole.path)))
    ids = torch.tensor([encoder.encode(ChatPrompt((Turn("user", (text,)),)), (), max_tokens=500)])
    expected = caller.whole.continuation({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, max_new_tokens=12)
    message = generation_pb2.ChatMessage(role="user", parts=[generation_pb2.ContentPart(text=text)])
    prompt = generation_pb2.Prompt(chat=generation_pb2.Chat(messages=[message]))
    assert (await caller.generate(prompt, max_new_tokens=12)).token_ids == expected


async def test_repetition_penalty_is_hugging_faces(caller: Caller):
    image = picture(120, 80, 6)
    options = {"max_new_tokens": 24, "repetition_penalty": 1.7}
    expected = caller.whole.generate(ASK, [image], **options)
    tokens = caller.whole.tokens(image)
    plain, penalised, again = await together(
        caller.generate(ASK, [tokens], max_new_tokens=24),
        caller.generate(ASK, [tokens], **options),
        caller.generate(ASK, [tokens], **options),
    )
    assert penalised.token_ids == again.token_ids == expected
    assert plain.token_ids == caller.whole.generate(ASK, [image], max_new_tokens=24)


async def test_text_is_the_decoded_tokens(caller: Caller):
    answer = await caller.generate(ASK, [caller.whole.tokens(picture(112, 112))], max_new_tokens=48)
    decoded = caller.whole.processor.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    assert answer.text == decoded


async def test_a_crowd_gets_the_answers_of_one(caller: Caller):
    questions = [
        (f"USER: <image>\nQuestion {index}? ASSISTANT:", [picture(60 + 31 * index, 200 - 7 * index, index)])
        for index in range(16)
    ] + [(f"USER: Say {index}! ASSISTANT:", []) for index in range(8)]
    expected = [caller.whole.generate(prompt, images, max_new_tokens=16) for prompt, images in questions]
    uploads = [(prompt, [caller.whole.tokens(image) for image in images]) for prompt, images in questions]
    answers = await together(*(caller.generate(*upload, max_new_tokens=16) for upload in uploads))
    assert [answer.token_ids for answer in answers] == expected


async def test_the_end_of_the_answer(caller: Caller):
    """A token that the model generates early is made its end of sequence by a stop string's tokens."""
    image = picture(112, 112, 7)
    tokens = caller.whole.tokens(image)
    answer = await caller.generate(ASK, [tokens], max_new_tokens=5)
    assert len(answer.token_ids) == 5 or answer.summary.finish_reason == generation_pb2.FINISH_REASON_STOP
    if len(answer.token_ids) == 5:
        assert answer.summary.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert answer.summary.usage.generated_tokens == len(answer.token_ids)
    assert torch.is_grad_enabled()
