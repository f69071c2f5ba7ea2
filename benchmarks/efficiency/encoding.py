"""The encoder service's half for one image at a time: pixels to the kept tokens on the host, as they would travel."""

import torch
from torch.utils.hooks import RemovableHandle
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.grid import TileGrid
from visionsplit.model.dtypes import DATA_TYPES_OF
from visionsplit.options.compression import Compression

from benchmarks.efficiency.clock import Clock
from benchmarks.efficiency.flops import flop_counter
from encoder_service.compression import compose
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.encoding import EncodedTiles, EncodeRequest, PreparedImage


class EncoderHalf:
    """The vision tower on its device, and an image of 2 x 2 tiles without padding: noise."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load or draw the weights.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        self.tower = VisionTower.load(checkpoint, dtype=dtype, device=device)
        self._encoder = BatchEncoder(self.tower)
        self._data_type = DATA_TYPES_OF[dtype]
        vision = checkpoint.config.vision_config
        side, edge = vision.image_size // vision.patch_size, 2 * vision.image_size
        self.grid = TileGrid.padded(edge, edge, rows=2, columns=2, side=side)
        shape = (self.grid.num_tiles, 3, vision.image_size, vision.image_size)
        self._pixels = torch.randint(
            0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )  # [T, 3, H, W]

    def encode(self, spec: Compression) -> EncodedTiles:
        """The image's kept tokens.

        Raises:
            VisionSplitError: the specification is wrong, or the image cannot be encoded under it.
        """
        image = PreparedImage(self._pixels, self.grid)
        return self._encoder.encode_image(EncodeRequest(image, compose(spec), self._data_type))

    def timed(self, spec: Compression, clock: Clock) -> EncodedTiles:
        """The same; marks "encoded" where the last layer that runs is done, "scored" where the scores are."""
        hooks: list[RemovableHandle] = [
            layer.register_forward_hook(lambda *_: clock.mark("encoded")) for layer in self.tower.layers
        ]
        hooks.append(self.tower.register_forward_hook(lambda *_: clock.mark("scored")))
        try:
            return self.encode(spec)
        finally:
            for hook in hooks:
                hook.remove()

    def counted(self, spec: Compression) -> tuple[EncodedTiles, int]:
        """The same, and the operations of its matrix products."""
        with flop_counter() as counter:
            encoded = self.encode(spec)
        return encoded, int(counter.get_total_flops())
