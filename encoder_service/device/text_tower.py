"""Computes how relevant each patch is to a text, with the text tower of the vision tower's CLIP model.

Source: CDPruner (arXiv 2506.10967) and its published code: a patch's feature goes through the last norm of CLIP's
vision part and its projection, although it comes from an earlier layer than these were trained behind; its relevance is
the cosine to the text's embedding with the sign turned, which the authors found to be right for CLIP. A long text is
cut into pieces as long as the text tower reads, and their cosines are averaged. All of it in float32.
"""

from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPConfig, CLIPTextModel
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.model.stored_model import CheckpointError, StoredModel, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TEXT_BYTES = 8192  # in UTF-8; a CLIP token covers at least a byte, so at most about 107 pieces of 77 tokens
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
# Of the patch embeddings: fine-tuning at the rates used for LLaVA-NeXT hardly moves them, and those of towers that were
# trained apart have nothing in common.
_LEAST_LIKENESS = 0.5


class TextTower(nn.Module):
    """CLIP's text part, and the projection of vision features into the common space, of width E."""

    def __init__(self, clip: CLIPConfig, tokenizer: "PreTrainedTokenizerBase", *, device: torch.device) -> None:
        """Allocate the modules without initialising them."""
        super().__init__()
        text, vision = clip.text_config, clip.vision_config
        self._device = device
        self._tokenizer = tokenizer
        self._piece = text.max_position_embeddings  # tokens that the text tower reads at once
        with torch.device("meta"):
            self.text_model = CLIPTextModel(text)
            self.text_projection = nn.Linear(text.hidden_size, clip.projection_dim, bias=False)
            self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            self.visual_projection = nn.Linear(vision.hidden_size, clip.projection_dim, bias=False)
        self.to(torch.float32).to_empty(device=device)
        # This buffer is not a weight, so no checkpoint contains it; allocating without initialising left it undefined.
        self.text_model.embeddings.position_ids = torch.arange(self._piece, device=device)[None]  # [1, piece]

    @classmethod
    def load(
        cls, name_or_path: str, checkpoint: Checkpoint, *, revision: str | None, device: torch.device
    ) -> "TextTower":
        """Read a CLIP checkpoint's text part and projections, and no other tensor but one to compare.

        Args:
            name_or_path: the CLIP checkpoint, a folder or a hub id.
            checkpoint: the one with the vision tower, which must have been trained from that CLIP model's.
            revision: of a hub id.
            device: the vision tower's.

        Raises:
            CheckpointError: it is not a CLIP checkpoint or cannot be read, or the vision tower was not trained from its
                vision part: width, patches or image size differ, or the weights have nothing in common.
        """
        if not checkpoint.family.clip_tower:
            raise CheckpointError(
                f"a text tower needs the vision tower of a CLIP model; checkpoint {checkpoint.name!r} is "
                f"{checkpoint.model_type!r}"
            )
        model = StoredModel(name_or_path, {"clip": str}, revision=revision)
        try:
            clip = CLIPConfig.from_dict(model.fields)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise CheckpointError(f"config.json of checkpoint {model.name!r} is damaged: {one_line(error)}") from error
        clip.text_config._attn_implementation = "sdpa"
        _check_shapes(model, clip, checkpoint)
        _check_likeness(model, checkpoint)
        tower = cls(clip, _tokenizer(model, clip), device=device)
        model.load_into(tower, lambda name: f"vision_model.{name}" if name.startswith("post_layernorm.") else name)
        return tower.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(self, text: str) -> torch.Tensor:
        """What a text looks for, [E] float32: the mean of its pieces' embeddings, each of unit length.

        The pieces are runs of as many tokens as the text tower reads, the last one filled up and masked. The start and
        end tokens are those of the whole text, as in the published code.
        """
        ids = self._tokenizer(  # [n]; a text that spells "<|endoftext|>" does not end there
            text, truncation=False, verbose=False, return_tensors="pt", split_special_tokens=True
        ).input_ids[0]
        pieces = -(-len(ids) // self._piece)
        filled = functional.pad(ids, (0, pieces * self._piece - len(ids))).view(pieces, self._piece)
        mask = torch.arange(pieces * self._piece).view(pieces, self._piece) < len(ids)
        pooled = self.text_model(filled.to(self._device), mask.long().to(self._device)).pooler_output  # [pieces, Dt]
        return functional.normalize(self.text_projection(pooled), dim=1).mean(dim=0)

    @torch.inference_mode()
    def relevance(self, features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """How relevant patches are to a text, [t, P] float32, from their features [t, P, Dv] and its embedding [E].

        The mean over the text's pieces of the cosine to each, negated. Tile by tile: what a tile is given must not
        depend on its company in the batch, and PyTorch computes a product otherwise for more rows.
        """
        rows = []
        for tile in features.float():  # [P, Dv]
            shared = functional.normalize(self.visual_projection(self.post_layernorm(tile)), dim=1)  # [P, E]
            rows.append(-torch.mv(shared, text))
        return torch.stack(rows)


def image_placeholder(checkpoint: Checkpoint) -> str:
    """What stands for an image in a finished prompt.

    Raises:
        CheckpointError: the checkpoint has no readable tokenizer, or no such token in it.
    """
    token = _read_tokenizer(checkpoint).convert_ids_to_tokens(checkpoint.config.image_token_index)
    if not isinstance(token, str) or not token:
        raise CheckpointError(f"the tokenizer of checkpoint {checkpoint.name!r} has no image token")
    return token


def _check_shapes(model: StoredModel, clip: CLIPConfig, checkpoint: Checkpoint) -> None:
    layers = checkpoint.config.vision_feature_layer
    if not isinstance(layers, int) and len(layers) != 1:
        raise CheckpointError(f"a text tower needs features of one layer; vision_feature_layer is {list(layers)}")
    for name in ("hidden_size", "patch_size", "image_size"):
        own, tower = getattr(clip.vision_config, name), getattr(checkpoint.config.vision_config, name)
        if own != tower:
            raise CheckpointError(
                f"the vision part of checkpoint {model.name!r} has {name} {own}, the vision tower {tower}; "
                "the text tower must come with the CLIP model that the vision tower was trained from"
            )


def _check_likeness(model: StoredModel, checkpoint: Checkpoint) -> None:
    """Check that the towers are related. Weights may differ after further training, but not as in unrelated towers."""
    embedding = "embeddings.patch_embedding.weight"
    own, tower = (
        _read(source, f"{part}.{embedding}").float().flatten()
        for source, part in ((model, "vision_model"), (checkpoint, "vision_tower"))
    )
    likeness = float(functional.cosine_similarity(own, tower, dim=0)) if own.shape == tower.shape else 0.0
    if not likeness >= _LEAST_LIKENESS:  # also catches NaN
        raise CheckpointError(
            f"the vision tower was not trained from that of checkpoint {model.name!r}: the cosine of their patch "
            f"embeddings is {likeness:.2f}"
        )


def _read(model: StoredModel, name: str) -> torch.Tensor:
    if name not in model.tensor_names:
        raise CheckpointError(f"checkpoint {model.name!r} has no tensor {name!r}")
    ((_, tensor),) = model.read([name])
    return tensor


def _tokenizer(model: StoredModel, clip: CLIPConfig) -> "PreTrainedTokenizerBase":
    """The CLIP checkpoint's tokenizer."""
    tokenizer = _read_tokenizer(model)
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= clip.text_config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of checkpoint {model.name!r} has token {highest}, which its text tower does not know"
        )
    return tokenizer


def _read_tokenizer(model: StoredModel) -> "PreTrainedTokenizerBase":
    # Without these files the library creates a tokenizer with hardly any tokens.
    if not any(map(model.has, _TOKENIZER_FILES)):
        raise CheckpointError(f"checkpoint {model.name!r} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)}")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.source, revision=model.revision)
    # The type of the library's exception depends on which file is missing or damaged.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"checkpoint {model.name!r} has no usable tokenizer: {one_line(error)}") from error
    return tokenizer
