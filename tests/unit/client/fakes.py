"""Services that answer from a script, over real sockets, without a model."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2_grpc
from visionsplit import errors
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.options.messages import data_type_from_proto
from visionsplit.v1 import (
    choice_pb2,
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    generation_pb2,
    llm_service_pb2,
    llm_service_pb2_grpc,
    tensor_pb2,
    vision_tokens_pb2,
)
from visionsplit.wire.grpc_status import ERROR_METADATA_KEY, status_of
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto, grid_to_proto, split_into_chunks

FEATURE_SIZE = 6
FORMAT = vision_tokens_pb2.VisionFormat(feature_size=FEATURE_SIZE, encoder_fingerprint="f" * 32, family="llava_next")
GRID = TileGrid.padded(300, 500, rows=2, columns=2, side=8)
WORDS = ("two ", "cats ", "sit.")


def fake_features(rows: int, data_type: DataType) -> TokenTensor:
    """[rows, FEATURE_SIZE] of a storage format, always the same."""
    values = np.random.default_rng(7).standard_normal((rows, FEATURE_SIZE)).astype("<f4")
    if data_type is DataType.FLOAT32:
        return TokenTensor(data_type, rows, FEATURE_SIZE, values.tobytes())
    if data_type is DataType.FLOAT16:
        return TokenTensor(data_type, rows, FEATURE_SIZE, values.astype("<f2").tobytes())
    if data_type is DataType.BFLOAT16:
        return TokenTensor(data_type, rows, FEATURE_SIZE, (values.view("<u4") >> 16).astype("<u2").tobytes())
    scales = np.abs(values).max(1) / 127
    quantised = np.rint(values / scales[:, None]).astype(np.int8)
    return TokenTensor(data_type, rows, FEATURE_SIZE, quantised.tobytes(), scales.astype("<f4").tobytes())


def kept_positions(grid: TileGrid, ratio: float) -> tuple[list[int], np.ndarray]:
    """Budgets, and positions [tokens, 3]: the first cells of each tile."""
    budgets, positions = [], []
    for tile in range(grid.num_tiles):
        region = grid.valid_in_tile(tile)
        budget = int(region.area * ratio)
        cells = [(r, c) for r in range(region.top, region.bottom) for c in range(region.left, region.right)]
        budgets.append(budget)
        positions += [(tile, row, column) for row, column in cells[:budget]]
    return budgets, np.array(positions, np.int32).reshape(-1, 3)


@dataclass
class Script:
    """What the next calls do, and what was seen."""

    failures: list[errors.VisionSplitError] = field(default_factory=list)  # each ends one call at its start
    fail_after_text: errors.VisionSplitError | None = None
    fail_after_image: list[errors.VisionSplitError] = field(default_factory=list)
    omit_summary: bool = False
    slow_seconds: float = 0.0  # before each word
    endless: bool = False  # words for ever
    requests: list = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    cancelled: int = 0

    def begin(self, request: object, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.request_ids.append(dict(context.invocation_metadata()).get("x-request-id", ""))
        # Every end of an endless call is a cancellation, even if gRPC never asks for the next word. The test may have
        # seen the request and cancelled already; then gRPC takes no callback.
        if self.endless and not context.add_callback(self.count_cancelled):
            self.count_cancelled()
        if self.failures:
            abort(context, self.failures.pop(0))

    def count_cancelled(self) -> None:
        self.cancelled += 1


def abort(context: grpc.ServicerContext, error: errors.VisionSplitError) -> None:
    context.set_trailing_metadata(((ERROR_METADATA_KEY, type(error).__name__),))
    context.abort(status_of(error), str(error))


def words(script: Script, context: grpc.ServicerContext) -> Iterator[generation_pb2.TextDelta]:
    while True:
        for index, word in enumerate(WORDS):
            if script.slow_seconds:
                time.sleep(script.slow_seconds)
            yield generation_pb2.TextDelta(text=word, token_ids=[index + 10])
            if script.fail_after_text is not None:
                abort(context, script.fail_after_text)
        if not script.endless:
            return


LAYERS = (29, 29, 14, 14, 14)  # prompt tokens in the layers of a language model that was asked to prune


def summary(vision_tokens: int, before: int, prefill: generation_pb2.Prefill) -> generation_pb2.GenerationSummary:
    return generation_pb2.GenerationSummary(
        finish_reason=generation_pb2.FINISH_REASON_STOP,
        usage=generation_pb2.Usage(
            prompt_tokens=vision_tokens + 9,
            vision_tokens=vision_tokens,
            vision_tokens_before=before,
            generated_tokens=3,
        ),
        timings=generation_pb2.LlmTimings(first_token_seconds=0.25, total_seconds=0.5),
        layer_tokens=LAYERS if prefill.HasField("pruning") else (),
    )


class FakeEncoder(encoder_service_pb2_grpc.EncoderServiceServicer):
    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.script = Script()

    def Encode(self, request, context):  # noqa: N802
        self.script.begin(request, context)
        header, positions = self._header(request.compression)
        yield encoder_service_pb2.EncodeResponse(header=header)
        features = fake_features(len(positions), data_type_from_proto(request.data_type, DataType.FLOAT32))
        for chunk in split_into_chunks(features, positions, image_index=0, first_chunk=0, chunk_bytes=1024):
            yield encoder_service_pb2.EncodeResponse(tokens=chunk)
        if not self.script.omit_summary:
            yield encoder_service_pb2.EncodeResponse(summary=self._summary(0, header, positions, features.num_bytes))

    def Generate(self, request, context):  # noqa: N802
        self.script.begin(request, context)
        for index, image in enumerate(request.images):
            if image.data == b"not an image":
                abort(context, errors.InvalidImageError(f"image {index}: cannot be decoded"))
            header, positions = self._header(request.compression)
            yield encoder_service_pb2.EncoderServiceGenerateResponse(
                image=self._summary(index, header, positions, 24 * len(positions))
            )
        if self.script.fail_after_image:
            abort(context, self.script.fail_after_image.pop(0))
        for delta in words(self.script, context):
            yield encoder_service_pb2.EncoderServiceGenerateResponse(delta=delta)
        if not self.script.omit_summary:
            yield encoder_service_pb2.EncoderServiceGenerateResponse(summary=summary(20, 80, request.prefill))

    def GetEncoderInfo(self, request, context):  # noqa: N802
        self.script.begin(request, context)
        return encoder_service_pb2.GetEncoderInfoResponse(
            model=self.name,
            format=FORMAT,
            tile_pixels=112,
            patch_pixels=14,
            grids=[encoder_service_pb2.GridShape(rows=2, columns=2)],
            methods=[choice_pb2.NamedChoice(name="globalcom2", parameters={"tau": 10.0})],
            default_compression=vision_tokens_pb2.Compression(method="none"),
            default_data_type=tensor_pb2.DATA_TYPE_BFLOAT16,
            version="0",
        )

    @staticmethod
    def _header(compression):
        ratio = compression.retention_ratio if compression.HasField("retention_ratio") else 1.0
        quotas, _ = kept_positions(GRID, ratio)
        budgets, positions = kept_positions(GRID, 1.0 if compression.quotas_only else ratio)
        header = encoder_service_pb2.EncodeHeader(
            grid=grid_to_proto(GRID),
            tokens=vision_tokens_pb2.ImageTokensHeader(
                budgets=budgets, quotas=quotas if compression.quotas_only else ()
            ),
            format=FORMAT,
            layout=compression.layout or vision_tokens_pb2.LAYOUT_SPATIAL,
        )
        return header, positions

    @staticmethod
    def _summary(index, header, positions, feature_bytes):
        return encoder_service_pb2.ImageSummary(
            image_index=index,
            grid=header.grid,
            budgets=header.tokens.budgets,
            tokens_before=sum(GRID.valid_counts()),
            tokens_after=len(positions),
            wire_bytes=feature_bytes + positions.nbytes,
            timings=encoder_service_pb2.EncodeTimings(preprocess_seconds=0.1, total_seconds=0.4),
        )


class FakeLlm(llm_service_pb2_grpc.LlmServiceServicer):
    def __init__(self) -> None:
        self.script = Script()
        self.images: list = []  # VisionTokens received

    def Generate(self, request_iterator, context):  # noqa: N802
        header = next(request_iterator).header
        self.script.begin(header, context)
        assemblers: list[TokenAssembler] = []
        for part in request_iterator:
            if part.WhichOneof("part") == "image":
                grid = grid_from_proto(header.grids[part.image.image_index])
                assemblers.append(TokenAssembler(grid, part.image, feature_size=header.format.feature_size))
            else:
                assemblers[part.tokens.image_index].add(part.tokens)
        self.images = [assembler.finish() for assembler in assemblers]
        for delta in words(self.script, context):
            yield llm_service_pb2.LlmServiceGenerateResponse(delta=delta)
        yield llm_service_pb2.LlmServiceGenerateResponse(summary=summary(20, 80, header.prefill))

    def GetLlmInfo(self, request, context):  # noqa: N802
        self.script.begin(request, context)
        return llm_service_pb2.GetLlmInfoResponse(
            model="fake",
            format=FORMAT,
            context_length=2048,
            backend="local",
            pruning_methods=[choice_pb2.NamedChoice(name="fastv", description="Drops.", parameters={"layer": 2.0})],
        )


def start_server(register: Callable[[grpc.Server], None], address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    """A server with a health service; returns it and its real address."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"


def start_encoder(encoder: FakeEncoder, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    return start_server(
        lambda server: encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(encoder, server), address
    )


def start_llm(llm: FakeLlm, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    return start_server(lambda server: llm_service_pb2_grpc.add_LlmServiceServicer_to_server(llm, server), address)
