"""`python -m benchmarks.scale.serve encoder|llm FILE ARGUMENTS`: one service whose device is simulated.

FILE has the device's time (`DeviceTime`): of a tile for an encoder, of a step for an LLM service. ARGUMENTS are the
real service's.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from visionsplit.server.running import run

from benchmarks.scale.devices import DeviceTime, SimulatedEngines, SimulatedTowers
from encoder_service.config import PROGRAM as ENCODER
from encoder_service.server import EncoderServer
from llm_service.config import PROGRAM as LLM
from llm_service.server import LlmServer


def main(arguments: Sequence[str]) -> int:
    kind, file, *rest = arguments
    seconds = DeviceTime(Path(file))
    if kind == "encoder":
        encoder = ENCODER.read(rest)
        return run("encoder", encoder, lambda: EncoderServer(encoder, load_half=SimulatedTowers(seconds)))
    llm = LLM.read(rest)
    return run("llm", llm, lambda: LlmServer(llm, SimulatedEngines(seconds)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
