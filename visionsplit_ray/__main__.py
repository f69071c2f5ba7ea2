"""`python -m visionsplit_ray`: the LLM service on Ray Serve, and encoders as Ray actors of the same cluster.

Takes the options of visionsplit-llm, and those below.
"""

import shlex
import sys
from collections.abc import Sequence

from visionsplit.command_line.parser import OneLineParser, pool_size

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM
from llm_service.config import BackendKind


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the process's exit status."""
    options, rest = _parser().parse_known_args(arguments)
    llm = LLM.read([*rest, "--backend", BackendKind.RAY.value])
    encoder = ENCODER.read(["--model", llm.model, *shlex.split(options.encoder_args)])
    # PyTorch and Ray are imported only once the settings are known to be right.
    from visionsplit.server.running import run

    from visionsplit_ray.encoder_pool import PoolConfig
    from visionsplit_ray.server import RayServer

    least, most = options.encoders
    pool = PoolConfig(least, most, listen=tuple(options.encoder_listen.split(",")))
    return run("llm", llm, lambda: RayServer(llm, encoder, pool))


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m visionsplit_ray", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--encoders",
        type=pool_size,
        default=(1, 1),
        metavar="N[-M]",
        help="The number of encoders; a range such as 2-8 follows the work. Default: 1.",
    )
    parser.add_argument(
        "--encoder-listen",
        required=True,
        metavar="HOST:PORT,...",
        help="The addresses on this machine where the encoders listen, one for each of the most encoders. Required.",
    )
    parser.add_argument(
        "--encoder-args",
        default="",
        metavar="OPTIONS",
        help="The options of visionsplit-encoder for each encoder, as one word. Default: none.",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
