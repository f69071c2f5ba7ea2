"""Converts a request's prompt into embeddings and a layout for the layers."""

import numpy as np
import torch
from numpy.typing import NDArray

from llm_service.engines.base import EngineRequest, ImageInput, ImageRun
from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.pruning import PromptLayout
from llm_service.pruning.base import NO_TILE


def read_prompt(
    request: EngineRequest, model: LayerwiseModel, *, image_token_id: int
) -> tuple[torch.Tensor, PromptLayout]:
    """Embed text and images: [n, Dl] in the model's type on its device, and the layout of the n tokens."""
    ids = np.array(request.token_ids, np.int64)
    cuts = np.flatnonzero(ids == image_token_id)
    pieces = _Pieces()
    start = 0
    ends = iter(cuts.tolist())
    for image in request.images:
        first_token = 0
        embeddings = image.embed()
        for run in image.runs:
            cut = next(ends)
            pieces.add_text(model, ids[start:cut])
            pieces.add_run(run, embeddings[first_token:], image.tiles[first_token:])
            first_token += run.num_tokens
            start = cut + 1
        pieces.end_image(image)
    pieces.add_text(model, ids[start:])
    return torch.cat(pieces.embeddings), pieces.layout(model.device)


class _Pieces:
    """Collects the parts of a prompt in order."""

    def __init__(self) -> None:
        self.embeddings: list[torch.Tensor] = []
        self._vision: list[NDArray[np.bool_]] = []
        self._tiles: list[NDArray[np.int64]] = []
        self._positions: list[NDArray[np.int64]] = []
        self._quotas: list[NDArray[np.int64]] = []
        self._with_quotas = False
        self._next_position = 0  # position of the next token
        self._num_tiles = 0

    def add_text(self, model: LayerwiseModel, ids: NDArray[np.int64]) -> None:
        self.embeddings.append(model.embed(ids.tolist()))
        self._vision.append(np.zeros(len(ids), np.bool_))
        self._tiles.append(np.full(len(ids), NO_TILE, np.int64))
        self._positions.append(self._next_position + np.arange(len(ids)))
        self._next_position += len(ids)

    def add_run(self, run: ImageRun, embeddings: torch.Tensor, tiles: NDArray[np.int64]) -> None:
        """Add a run of the present image; its tokens are the first of the embeddings and tiles."""
        tiles = tiles[: run.num_tokens]
        self.embeddings.append(embeddings[: run.num_tokens])
        self._vision.append(np.ones(run.num_tokens, np.bool_))
        self._tiles.append(np.where(tiles >= 0, tiles + self._num_tiles, NO_TILE))
        self._positions.append(self._next_position + run.offsets)
        self._next_position += run.span

    def end_image(self, image: ImageInput) -> None:
        """Note the quotas of the image whose runs have been added."""
        in_tile = image.tiles >= 0
        count = int(image.tiles.max(initial=NO_TILE)) + 1 if image.quotas is None else len(image.quotas)
        held = np.bincount(image.tiles[in_tile], minlength=count)  # an image without quotas keeps everything
        self._with_quotas |= image.quotas is not None
        self._quotas.append(held if image.quotas is None else np.array(image.quotas, np.int64))
        self._num_tiles += count

    def layout(self, device: torch.device) -> PromptLayout:
        quotas = torch.from_numpy(np.concatenate(self._quotas)).to(device) if self._with_quotas else None
        return PromptLayout.of(
            torch.from_numpy(np.concatenate(self._vision)).to(device),
            tiles=torch.from_numpy(np.concatenate(self._tiles)).to(device),
            positions=torch.from_numpy(np.concatenate(self._positions)).to(device),
            quotas=quotas,
        )
