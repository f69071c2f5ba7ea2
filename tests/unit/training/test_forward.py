"""The trainer's forward pass gives the same results as Hugging Face's on the same prompts."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor, PreTrainedTokenizerFast

from training.data.batches import Batch, BatchConfig, Batches
from training.data.prompts import TOPICS
from training.dialogue.captions import caption
from training.learning import shared_prefix
from training.learning.forward import Answers, answers, hidden_states
from training.model.checkpoint import Architecture, new_model
from training.scenes.lots import GRIDS
from training.scenes.render import render

PLAIN = BatchConfig(tiles=28, pairs=0.5, uneven_positions=0.0, split="forward")


@pytest.fixture(scope="module")
def model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> LlavaNextForConditionalGeneration:
    """Weights so large that every token of the prompt tells."""
    shared_prefix.register()
    torch.manual_seed(1)
    network = new_model(architecture, tokenizer).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1 / parameter.shape[-1] ** 0.5)
    return network


def ours(model: LlavaNextForConditionalGeneration, batch: Batch) -> Answers:
    model.model.language_model.config._attn_implementation = shared_prefix.NAME
    try:
        with torch.no_grad():
            return answers(model, batch, hidden_states(model, batch.tiles))
    finally:
        model.model.language_model.config._attn_implementation = "sdpa"


def question_ids(batch: Batch, sequence: int, question: int) -> torch.Tensor:
    return batch.ids[sequence][batch.question[sequence] == question]


def said_to(said: Answers, sequence: int, question: int) -> torch.Tensor:
    return said.logits[(said.sequence == sequence) & (said.question == question)]


def first_of_each_shape(batches: Batches) -> dict[tuple[int, int, int], int]:
    """Batch numbers by rows, columns and images in a prompt."""
    numbers: dict[tuple[int, int, int], int] = {}
    for number in range(len(batches)):
        batch = batches[number]
        numbers.setdefault((batch.rows, batch.columns, len(batch.tiles) // len(batch.ids)), number)
    return numbers


def test_it_gives_the_whole_models_logits(
    model: LlavaNextForConditionalGeneration,
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    processor: LlavaNextProcessor,
) -> None:
    batches = Batches(architecture, tokenizer, PLAIN, 60)
    numbers = first_of_each_shape(batches)
    assert set(numbers) == {(*grid, shown) for grid in GRIDS for shown in (1, 2)}
    for (_, _, shown), number in numbers.items():
        batch, scenes = batches[number], batches.scenes(number)
        said = ours(model, batch)
        sequence = len(batch.ids) - 1
        images = [render(scene) for scene in scenes[sequence * shown :]]
        for question in range(int(batch.question[sequence].max()) + 1):
            ids = question_ids(batch, sequence, question)
            text = "<s>USER: " + "\n".join(["<image>"] * shown) + tokenizer.decode(ids)
            inputs = processor(images=images, text=text, return_tensors="pt")
            assert inputs["input_ids"][0, -len(ids) :].tolist() == ids.tolist()
            with torch.no_grad():
                theirs = model(**inputs).logits[0]
            mine = said_to(said, sequence, question)
            assert theirs.abs().max() > 0.5
            torch.testing.assert_close(mine, theirs[-len(mine) - 1 : -1], atol=2e-4, rtol=1e-3)


def test_words_are_read_as_a_language_model_alone_reads_them(
    model: LlavaNextForConditionalGeneration, architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> None:
    batches = Batches(architecture, tokenizer, dataclasses.replace(PLAIN, words_only=1.0), 2)
    for number in range(2):
        batch, scenes = batches[number], batches.scenes(number)
        shown = len(batch.tiles) // len(batch.ids)
        said = ours(model, batch)
        for sequence in range(len(batch.ids)):
            ids = question_ids(batch, sequence, 0)
            told = "\n".join(caption(scene) for scene in scenes[sequence * shown : (sequence + 1) * shown])
            inputs = tokenizer(f"<s>USER: {told}{tokenizer.decode(ids)}", return_tensors="pt", add_special_tokens=False)
            with torch.no_grad():
                theirs = model(input_ids=inputs.input_ids).logits[0]
            mine = said_to(said, sequence, 0)
            torch.testing.assert_close(mine, theirs[-len(mine) - 1 : -1], atol=2e-4, rtol=1e-3)


def test_a_thumbnail_alone_is_packed_as_a_single_view(
    model: LlavaNextForConditionalGeneration, architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Hugging Face's model packs images of one tile so, though its processor never makes one."""
    batches = Batches(architecture, tokenizer, dataclasses.replace(PLAIN, thumbnails_only=1.0), 60)
    numbers = first_of_each_shape(batches)
    assert set(numbers) == {(0, 0, 1), (0, 0, 2)}
    embed = model.get_input_embeddings()
    for (_, _, shown), number in numbers.items():
        batch = batches[number]
        said = ours(model, batch)
        states = hidden_states(model, batch.tiles[:shown])
        with torch.no_grad():
            features = model.model.multi_modal_projector(states[-2][:, 1:])  # [shown, P, D]
            sizes = torch.full((shown, 2), architecture.tile)
            packed, _ = model.model.pack_image_features(
                features.split(1), sizes, "default", image_newline=model.model.image_newline
            )
            line = embed(torch.tensor(tokenizer("\n").input_ids))
            parts = [embed(torch.tensor(tokenizer("<s>USER: ").input_ids))]
            for part in packed:
                parts += [part, line]
            parts[-1] = embed(question_ids(batch, 0, 0))  # its own newline comes first
            hidden = model.model.language_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state
            theirs = model.lm_head(hidden)[0]
        mine = said_to(said, 0, 0)
        torch.testing.assert_close(mine, theirs[-len(mine) - 1 : -1], atol=2e-4, rtol=1e-3)


def test_hidden_states_are_the_towers(
    model: LlavaNextForConditionalGeneration, architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> None:
    batches = Batches(architecture, tokenizer, PLAIN, 1)
    batch = batches[0]
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    pixels = (batch.tiles.flatten(0, 1).numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    with torch.no_grad():
        theirs = model.model.vision_tower(torch.from_numpy(pixels).float(), output_hidden_states=True).hidden_states
        states = hidden_states(model, batch.tiles)
    assert len(states) == len(theirs) == architecture.vision_layers + 1
    for mine, other in zip(states, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_neither_padding_nor_the_other_questions_tell(
    model: LlavaNextForConditionalGeneration, architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> None:
    batches = Batches(architecture, tokenizer, PLAIN, 60)
    batch = batches[first_of_each_shape(batches)[1, 2, 1]]
    said = ours(model, batch)
    changed = batch.ids.clone()
    changed[batch.question != 1] = 300
    padded = dataclasses.replace(
        batch,
        ids=changed,
        prefix_ids=torch.nn.functional.pad(batch.prefix_ids, (0, 5), value=77),
        prefix_rows=torch.nn.functional.pad(batch.prefix_rows, (0, 5), value=-2),
        prefix_positions=torch.nn.functional.pad(batch.prefix_positions, (0, 5)),
    )
    other = ours(model, padded)
    kept = said.question == 1
    assert kept.any()
    torch.testing.assert_close(said.logits[kept], other.logits[kept], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(said.logits[~kept], other.logits[~kept], atol=1e-2)


def test_an_answer_is_right_when_all_of_its_tokens_are() -> None:
    labels = torch.tensor([5, 6, 5, 5, 6, 7])
    guesses = torch.tensor([5, 6, 5, 6, 6, 7])  # the fourth is wrong
    said = Answers(
        logits=torch.nn.functional.one_hot(guesses, 9).float() * 20,
        labels=labels,
        sequence=torch.tensor([0, 0, 0, 1, 1, 1]),
        question=torch.tensor([0, 0, 1, 0, 0, 3]),
        topic=torch.tensor([2, 2, 4, 2, 2, 0]),
    )
    right, count = said.right_by_topic()
    assert len(right) == len(count) == len(TOPICS)
    assert count.tolist()[:5] == [1, 0, 2, 0, 1]
    assert right.tolist()[:5] == [1, 0, 1, 0, 1]
    assert said.loss().item() == pytest.approx(20 / 6, rel=1e-3)
