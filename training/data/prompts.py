"""Questions and answers as token ids: one sequence holds one or two images and many questions about them.

prefix: <s>USER: image, newline, [image, newline]      seen by all questions
suffix: question 1, answer 1, question 2, answer 2 ...  each sees the prefix and itself
"""

import enum
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase
from visionsplit.grid import TileGrid

from training.dialogue.captions import caption
from training.dialogue.questions import Question, Topic, about_image, ask
from training.scenes.scene import Scene

IGNORED = -100  # a label without loss
NEWLINE = -1  # marks the newline's embedding in place of a row of vision tokens
ORDINALS = ("first", "second")
TOPICS = tuple(Topic)
_OPENING = "USER: "
# How often each topic is asked; positions and printed text most often, since they are learnt last.
_WEIGHTS = {
    Topic.WHAT: 2,
    Topic.COLOUR: 1,
    Topic.EXIST: 2,
    Topic.WHERE: 3,
    Topic.COUNT: 2,
    Topic.READ: 4,
    Topic.CAPTION: 2,
}
# The topics that a thumbnail alone can answer, and those that crops alone can.
_COARSE_WEIGHTS = {Topic.WHAT: 3, Topic.COLOUR: 1, Topic.EXIST: 1, Topic.WHERE: 5, Topic.COUNT: 1}
_FINE_WEIGHTS = {Topic.COLOUR: 1, Topic.EXIST: 2, Topic.COUNT: 3, Topic.READ: 6}


class Views(enum.Enum):
    """The views of an image that a prompt shows."""

    ALL = "thumbnail and crops"
    THUMBNAIL = "the thumbnail alone"
    CROPS = "the crops alone"
    WORDS = "no view, but a description"


_TOPIC_WEIGHTS: Mapping[Views, Mapping[Topic, int]] = {
    Views.ALL: _WEIGHTS,
    Views.THUMBNAIL: _COARSE_WEIGHTS,
    Views.CROPS: _FINE_WEIGHTS,
    Views.WORDS: _WEIGHTS,
}


@dataclass(frozen=True)
class Prefix:
    """The part of the prompt up to the end of the images."""

    ids: NDArray[np.int64]  # [L]; the image token at rows of vision tokens and newlines
    rows: NDArray[np.int64]  # [V]: the row of all images' tokens [images * T * P], or NEWLINE
    positions: NDArray[np.float32]  # [L]


@dataclass(frozen=True)
class Suffix:
    """Several questions with their answers, padded to a fixed length."""

    ids: NDArray[np.int64]  # [S]
    labels: NDArray[np.int64]  # [S]: the next token if it belongs to an answer, else IGNORED
    question: NDArray[np.int64]  # [S]: number of the question, -1 for padding
    topic: NDArray[np.int64]  # [S]: index of the question's topic in TOPICS, -1 for padding
    offsets: NDArray[np.int64]  # [S]: position after the prefix


class PromptBuilder:
    """Tokenises prompts in the chat template's form."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        suffix_tokens: int,
        *,
        uneven_positions: float,
        shuffled_thumbnails: float,
    ) -> None:
        """`batches.BatchConfig` explains the shares."""
        self._tokenizer = tokenizer
        self._uneven_positions = uneven_positions
        self._shuffled_thumbnails = shuffled_thumbnails
        self._suffix_tokens = suffix_tokens
        self.image_id = tokenizer.convert_tokens_to_ids("<image>")
        self._opening = [tokenizer.bos_token_id, *self._ids(_OPENING)]
        self._break = self._ids("\n")

    def prefix(self, grids: Sequence[TileGrid], lots: random.Random, views: Views = Views.ALL) -> Prefix:
        """The prompt's beginning for images with equal numbers of tiles."""
        ids, rows = list(self._opening), []
        for number, grid in enumerate(grids):
            if number:
                ids.extend(self._break)
            order = self._order(grid, lots, views)
            tokens = (1 if views is Views.THUMBNAIL else grid.num_tiles) * grid.cells_per_tile
            rows.append(np.where(order == NEWLINE, NEWLINE, order + number * tokens))
            ids.extend([self.image_id] * len(order))
        prompt = np.array(ids, np.int64)
        return Prefix(prompt, np.concatenate(rows), self._positions(prompt == self.image_id, lots))

    def description(self, scenes: Sequence[Scene]) -> Prefix:
        """The same beginning with captions in place of the images.

        A language model has learnt from text before it sees an image. One that has not, and knows images of hundreds of
        tokens only, stammers as soon as compression leaves it a few dozen.
        """
        text = "\n".join(caption(scene) for scene in scenes)
        ids = np.array([self._tokenizer.bos_token_id, *self._ids(f"{_OPENING}{text}")], np.int64)
        return Prefix(ids, np.empty(0, np.int64), np.arange(len(ids), dtype=np.float32))

    def suffix(self, scenes: Sequence[Scene], lots: random.Random, views: Views = Views.ALL) -> Suffix:
        """As many questions about the scenes as fit, on topics that these views can answer."""
        room = self._suffix_tokens
        ids = np.full(room, self._tokenizer.pad_token_id, np.int64)
        labels, question = np.full(room, IGNORED, np.int64), np.full(room, -1, np.int64)
        topic, offsets = np.full(room, -1, np.int64), np.zeros(room, np.int64)
        start, misses, asked = 0, 0, set[str]()
        while misses < 4:
            chosen = _choose(scenes, lots, _TOPIC_WEIGHTS[views])
            if chosen is None or chosen.text in asked:
                misses += 1
                continue
            tokens, answer_start = self._tokenise(chosen)
            stop = start + len(tokens)
            if stop > room:
                misses += 1
                continue
            ids[start:stop] = tokens
            labels[start + answer_start - 1 : stop - 1] = tokens[answer_start:]
            question[start:stop] = len(asked)
            topic[start:stop] = TOPICS.index(chosen.topic)
            offsets[start:stop] = np.arange(len(tokens))
            asked.add(chosen.text)
            start = stop
        return Suffix(ids, labels, question, topic, offsets)

    def _order(self, grid: TileGrid, lots: random.Random, views: Views) -> NDArray[np.int64]:
        """Rows of one image's tokens and newlines, as the views show them.

        A thumbnail in random order teaches the model to find a place by what its tokens say, not by counting them: only
        so do places survive when some tokens are missing, and GlobalCom2's own layout shows a thumbnail by score.
        """
        order = single_view_order(grid) if views is Views.THUMBNAIL else uncompressed_order(grid)
        if views is Views.CROPS:
            return order[grid.cells_per_tile :]
        if lots.random() < self._shuffled_thumbnails:
            shuffled = np.random.default_rng(lots.getrandbits(32)).permutation(grid.cells_per_tile)
            order[: grid.cells_per_tile] = shuffled
        return order

    def _positions(self, vision: NDArray[np.bool_], lots: random.Random) -> NDArray[np.float32]:
        """Positions of a prompt's tokens; in some prompts vision tokens advance the position by less than one.

        So the model learns to find a place by what the tokens say and by the newlines, as one that saw images of every
        size does, and not by counting. After V2PE ("variable visual position encoding", arXiv 2412.09616) and
        randomised positions (arXiv 2305.16843).
        """
        steps = np.ones(len(vision), np.float32)
        if lots.random() < self._uneven_positions:
            share = 10 ** lots.uniform(-1, 0)
            noise = np.random.default_rng(lots.getrandbits(32)).random(len(vision), np.float32)
            steps = np.where(vision, 2 * share * noise, steps).astype(np.float32)
        positions: NDArray[np.float32] = np.cumsum(steps, dtype=np.float32) - 1
        return positions

    def _tokenise(self, question: Question) -> tuple[list[int], int]:
        """The tokens of question and answer, and the index of the answer's first token."""
        asked = self._ids(f"\n{question.text} ASSISTANT:")
        return [*asked, *self._ids(f" {question.answer}"), self._tokenizer.eos_token_id], len(asked)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def uncompressed_order(grid: TileGrid) -> NDArray[np.int64]:
    """Rows of one image's tokens [T * P] in the order of LLaVA-NeXT, with NEWLINE between rows of cells.

    The thumbnail, then the canvas without its padding, row by row.
    """
    cells, side = grid.cells_per_tile, grid.side
    crops = np.arange(cells, grid.num_tiles * cells).reshape(grid.rows, grid.columns, side, side)
    canvas = crops.transpose(0, 2, 1, 3).reshape(grid.canvas_height, grid.canvas_width)
    valid = canvas[grid.valid.top : grid.valid.bottom, grid.valid.left : grid.valid.right]
    lines = np.pad(valid, ((0, 0), (0, 1)), constant_values=NEWLINE)  # [rows, columns + 1]
    return np.concatenate([np.arange(cells), lines.reshape(-1)])


def single_view_order(grid: TileGrid) -> NDArray[np.int64]:
    """The same for an image shown as a thumbnail only, as LLaVA-NeXT shows one without crops."""
    return np.append(np.arange(grid.cells_per_tile), NEWLINE)


def _choose(scenes: Sequence[Scene], lots: random.Random, weights: Mapping[Topic, int]) -> Question | None:
    number = lots.randrange(len(scenes))
    topic = lots.choices(list(weights), list(weights.values()))[0]
    question = ask(scenes[number], topic, lots)
    return question if question is None or len(scenes) == 1 else about_image(question, ORDINALS[number])
