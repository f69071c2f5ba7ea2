"""Runs one batch through the whole model: from pixels to the loss of the answers."""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlavaNextForConditionalGeneration
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD  # the image processor's values

from training.data.batches import Batch
from training.data.prompts import IGNORED, NEWLINE, TOPICS
from training.learning.shared_prefix import suffix_mask


@dataclass(frozen=True)
class Answers:
    """The model's predictions after each token of the questions that has a label; N of them."""

    logits: torch.Tensor  # [N, vocabulary]
    labels: torch.Tensor  # [N]
    sequence: torch.Tensor  # [N]
    question: torch.Tensor  # [N], numbered within its sequence
    topic: torch.Tensor  # [N], index into prompts.TOPICS

    def loss(self) -> torch.Tensor:
        """Cross-entropy, mean over tokens."""
        return functional.cross_entropy(self.logits.float(), self.labels)

    def right_by_topic(self) -> tuple[torch.Tensor, torch.Tensor]:
        """How many answers greedy decoding gets entirely right, and how many there are, by topic."""
        most = int(self.question.max()) + 1
        answer = self.sequence * most + self.question
        wrong = torch.zeros(int(answer.max()) + 1, device=answer.device)
        wrong.index_add_(0, answer, (self.logits.argmax(1) != self.labels).float())
        topic_of = torch.full_like(wrong, -1, dtype=torch.int64).scatter(0, answer, self.topic)
        asked = topic_of >= 0
        count = torch.bincount(topic_of[asked], minlength=len(TOPICS))
        return torch.bincount(topic_of[asked & (wrong == 0)], minlength=len(TOPICS)), count


def hidden_states(model: LlavaNextForConditionalGeneration, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The vision tower's hidden states [B * T, 1 + P, D], embeddings first, from 8-bit tiles [B, T, 3, H, W]."""
    mean = torch.tensor(OPENAI_CLIP_MEAN, device=tiles.device).view(3, 1, 1)
    std = torch.tensor(OPENAI_CLIP_STD, device=tiles.device).view(3, 1, 1)
    pixels = (tiles.flatten(0, 1).float() / 255 - mean) / std
    tower = model.model.vision_tower
    states = [tower.pre_layrnorm(tower.embeddings(pixels))]
    for layer in tower.encoder.layers:
        states.append(layer(states[-1], None))
    return tuple(states)


def answers(model: LlavaNextForConditionalGeneration, batch: Batch, states: tuple[torch.Tensor, ...]) -> Answers:
    """The language model's output for the batch's sequences, with projector and newline before it."""
    embeddings = model.model.language_model.get_input_embeddings()
    vision = model.model.multi_modal_projector(states[-2][:, 1:])  # [B * T, P, Dl]
    vision = vision.reshape(len(batch.ids), -1, vision.shape[-1])  # [Q, shown * T * P, Dl]
    newline = model.model.image_newline.expand(len(vision), 1, -1).to(vision.dtype)
    vision = torch.cat([vision, newline], 1)  # the last row is the newline
    rows = torch.where(batch.prefix_rows == NEWLINE, vision.shape[1] - 1, batch.prefix_rows)  # [Q, L]
    gathered = vision.gather(1, rows.clamp(min=0)[..., None].expand(-1, -1, vision.shape[-1]))
    prefix = torch.where(rows[..., None] >= 0, gathered, embeddings(batch.prefix_ids).to(vision.dtype))
    inputs = torch.cat([prefix, embeddings(batch.ids).to(vision.dtype)], 1)  # [Q, L + S, Dl]
    room = prefix.shape[1]
    last = batch.prefix_positions.gather(1, batch.prefix_lengths[:, None] - 1)  # [Q, 1]
    positions = torch.cat([batch.prefix_positions, last + 1 + batch.offsets], 1)  # [Q, L + S]
    mask = suffix_mask(batch.prefix_lengths, room, batch.question)
    hidden = model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state[:, room:]  # [Q, S, Dl]
    sequence, place = (batch.labels != IGNORED).nonzero(as_tuple=True)
    return Answers(
        model.lm_head(hidden[sequence, place]),
        batch.labels[sequence, place],
        sequence,
        batch.question[sequence, place],
        batch.topic[sequence, place],
    )
