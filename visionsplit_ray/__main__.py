"""`python -m visionsplit_ray`: the LLM service on Ray Serve, and encoders as Ray actors of the same cluster.

Takes the options of visionsplit-llm, and those below.
"""

import shlex
import sys
from collections.abc import Sequence
from functools import partial

from visionsplit.command_line.parser import Kind, OneLineParser, add_option, any_text, pool_size

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM
from llm_service.config import BackendKind


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal stops the process; returns the process's exit status."""
    options, rest = _parser().parse_known_args(arguments)
    llm = LLM.read([*rest, "--backend", BackendKind.RAY.value])
    encoder = ENCODER.read(["--model", llm.model, *options.encoder_args])
    # PyTorch and Ray are imported only once the settings are known to be right.
    from visionsplit.server.running import run

    from visionsplit_ray.encoder_pool import PoolConfig
    from visionsplit_ray.server import RayServer

    least, most = options.encoders
    pool = PoolConfig(least, most, listen=tuple(options.encoder_listen.split(",")))
    return run("llm", llm, lambda: RayServer(llm, encoder, pool))


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m visionsplit_ray", description=__doc__.partition("\n")[0], allow_abbrev=False)
    add = partial(add_option, parser)
    add("--encoders", pool_size, "The number of encoders; a range such as 2-8 follows the work.", (1, 1))
    text = "The addresses on this machine where the encoders listen, one for each of the most encoders."
    add("--encoder-listen", any_text, text, required=True, metavar="HOST:PORT,...")
    text = "The options of visionsplit-encoder for each encoder, as one word."
    add("--encoder-args", Kind(shlex.split, "options", "OPTIONS"), text, [])
    return parser


if __name__ == "__main__":
    sys.exit(main())
