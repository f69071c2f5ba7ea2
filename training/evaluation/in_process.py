"""Answers questions with the services' parts in this process, without gRPC and Ray, many prompts at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid

from llm_service.generation_settings import GenerationSettings
from llm_service.prompts.prompt import ChatPrompt, PromptEncoder, Turn
from llm_service.replica.text_model import load_text_model
from training.dialogue.held_out import Example
from training.evaluation.conditions import Condition
from training.evaluation.decoding import GreedyDecoder, SharedPrompts
from training.evaluation.grouping import grouped
from training.evaluation.pruned import PruningDecoder
from training.evaluation.results import Answer, Seen
from training.evaluation.tiled_images import tiled_images
from training.evaluation.vision import EncodedTiledImage, VisionHalf

_ANY_GRID = TileGrid.squashed(1, 1, rows=0, columns=0, side=1)  # prompts are the same for every size of image
_LEAST_CHUNK = 32  # images; prompts of similar length are grouped within one chunk


@dataclass(frozen=True)
class Settings:
    """How the model is run. Except for `max_new_tokens`, these settings change answers only by rounding."""

    device: torch.device
    dtype: torch.dtype
    batch: int  # questions answered at once, and tiles of a forward pass
    workers: int  # processes that draw images; 0 draws them in this one
    max_new_tokens: int


@dataclass(frozen=True)
class _Task:
    """The questions about one image under one condition."""

    condition: Condition
    example: Example
    seen: Seen
    prompts: SharedPrompts


class InProcessModel:
    """A whole checkpoint, loaded to be scored under several conditions."""

    def __init__(self, model: str, conditions: Sequence[Condition], settings: Settings) -> None:
        """Load the weights.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            InvalidCompressionError: a condition names something that does not exist.
            ValueError: the checkpoint decodes in a way that is not followed here.
        """
        checkpoint = Checkpoint(model)
        generation = GenerationSettings.of(checkpoint)
        if generation.repetition_penalty != 1:
            raise ValueError("the checkpoint sets a repetition_penalty; score a running system instead")
        self._source = model
        self._conditions = conditions
        self._settings = settings
        self._prompts = PromptEncoder(checkpoint)
        self._context_length: int = checkpoint.config.text_config.max_position_embeddings
        self._vision = VisionHalf(checkpoint, conditions, device=settings.device, dtype=settings.dtype)
        text_model = load_text_model(checkpoint, device=settings.device, dtype=settings.dtype)
        longest = settings.max_new_tokens
        self._decoder = GreedyDecoder(text_model, end_ids=generation.end_ids, max_new_tokens=longest)
        self._pruning_decoder = PruningDecoder(text_model, end_ids=generation.end_ids, max_new_tokens=longest)

    def answers(self, examples: Sequence[Example], progress: Callable[[int], object]) -> Iterator[Answer]:
        """Ask everything under every condition, a chunk of images at a time; `progress` gets the answered questions."""
        waiting = iter(examples)
        drawn = tiled_images(self._source, [example.number for example in examples], workers=self._settings.workers)
        size = max(_LEAST_CHUNK, self._settings.batch // 4)
        while chunk := list(islice(waiting, size)):
            encoded = self._vision.encode(list(islice(drawn, len(chunk))), max_tiles=self._settings.batch)
            tasks = [
                task
                for example, image in zip(chunk, encoded, strict=True)
                for condition in self._conditions
                for task in self._tasks(example, image, condition)
            ]
            # Sorted by length, so that batches contain little padding.
            tasks.sort(key=lambda task: task.prompts.shared_tokens, reverse=True)
            for batch in grouped(tasks, lambda task: len(task.example.questions), self._settings.batch):
                answers = self._answer(batch)
                progress(len(answers))
                yield from answers

    def _tasks(self, example: Example, image: EncodedTiledImage, condition: Condition) -> Iterator[_Task]:
        """One task with all questions, or several if the chat template puts text before the image."""
        embedded = self._vision.embed(image, condition)
        tokens = len(embedded.rows)
        seen = Seen((image.tiled.grid.rows, image.tiled.grid.columns), tokens, tokens)
        split = [self._split(question.text) for question in example.questions]
        for head in dict.fromkeys(head for head, _ in split):
            mine = [index for index, (other, _) in enumerate(split) if other == head]
            questions = tuple(example.questions[index] for index in mine)
            prompts = SharedPrompts(head, embedded, tuple(split[index][1] for index in mine))
            yield _Task(condition, Example(example.number, example.scene, questions), seen, prompts)

    def _split(self, question: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A question's prompt as the client sends it, as the token ids before and after the image."""
        prompt = ChatPrompt((Turn("user", (None, question)),))
        ids = self._prompts.encode(prompt, [_ANY_GRID], max_tokens=self._context_length)
        place = ids.index(self._prompts.image_token_id)
        return ids[:place], ids[place + 1 :]

    def _answer(self, tasks: Sequence[_Task]) -> list[Answer]:
        plain = [task for task in tasks if task.condition.pruning is None]
        decoded = self._decoder.decode([task.prompts for task in plain]) if plain else []
        answers = [
            Answer.scored(task.condition.name, task.example, question, task.seen, self._text(token_ids))
            for task, answers in zip(plain, decoded, strict=True)
            for question, token_ids in zip(task.example.questions, answers, strict=True)
        ]
        return answers + [answer for task in tasks for answer in self._answer_pruned(task)]

    def _answer_pruned(self, task: _Task) -> Iterator[Answer]:
        """Answer with a language model that drops tokens; nothing for other tasks."""
        if task.condition.pruning is None:
            return
        decoded = self._pruning_decoder.decode(task.prompts, task.condition.pruning)
        for question, said in zip(task.example.questions, decoded, strict=True):
            seen = replace(task.seen, layer_tokens=said.vision_tokens)
            yield Answer.scored(task.condition.name, task.example, question, seen, self._text(said.token_ids))

    def _text(self, token_ids: Sequence[int]) -> str:
        text = self._prompts.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)
