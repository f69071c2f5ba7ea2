"""`python -m benchmarks.scale.transport`: processor time of a token from a replica on Ray, by reference and by value.

By reference, each token is an object of Ray's store. By value, Ray Serve sends it over gRPC, as the LLM service asks it
to. Each way runs in a separate process, with 16 streams of 20 tokens a second.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator

import psutil

from llm_service.job import TokenEvent

_STREAMS, _PER_SECOND, _SECONDS = 16, 20, 10


class Source:
    """A replica that has a token at fixed times."""

    async def tokens(self, number: int) -> AsyncGenerator[TokenEvent, None]:
        for index in range(number):
            await asyncio.sleep(1 / _PER_SECOND)
            yield TokenEvent((index,), index == number - 1, 0.0)

    def pid(self) -> int:
        return os.getpid()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.transport", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--way", choices=("reference", "value"), help="measure one in this process")
    way = parser.parse_args().way
    if way is not None:
        asyncio.run(_measure(by_value=way == "value"))
        return
    for one in ("reference", "value", "reference", "value"):
        subprocess.run([sys.executable, "-m", "benchmarks.scale.transport", "--way", one], check=True)


async def _measure(*, by_value: bool) -> None:
    separate = "0" if by_value else "1"
    os.environ |= {"RAY_SERVE_LOG_TO_STDERR": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": separate}
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    serve.start(proxy_location="Disabled", logging_config=quiet)
    source = serve.deployment(Source).options(max_ongoing_requests=2 * _STREAMS, logging_config=quiet)
    handle = await asyncio.to_thread(serve.run, source.bind(), name="source", route_prefix=None)
    processes = [psutil.Process(), psutil.Process(await handle.pid.remote())]

    async def read(number: int) -> None:
        async for _ in handle.options(stream=True, method_name="tokens", _by_reference=not by_value).remote(number):
            pass

    number = _PER_SECOND * _SECONDS
    await asyncio.gather(*(read(_PER_SECOND) for _ in range(_STREAMS)))
    before = [sum(process.cpu_times()[:2]) for process in processes]
    await asyncio.gather(*(read(number) for _ in range(_STREAMS)))
    spent = [sum(process.cpu_times()[:2]) - was for process, was in zip(processes, before, strict=True)]
    here, there = (1e3 * seconds / (number * _STREAMS) for seconds in spent)
    print(f"by {'value' if by_value else 'reference'}: {here:.3f} ms here, {there:.3f} ms in the replica", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
