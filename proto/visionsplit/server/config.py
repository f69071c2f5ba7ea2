"""The settings that every service has."""

from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any

from visionsplit.command_line.parser import device, host_port, not_negative, one_of, word
from visionsplit.command_line.security_options import ServerSecuritySettings
from visionsplit.command_line.settings import check, group, setting
from visionsplit.options.data_types import DTYPE_NAMES
from visionsplit.security.server import ServerSecurity
from visionsplit.telemetry.config import TelemetryConfig

_model = partial(setting, "model")
_serving = partial(setting, "serving")


def listening(default: Any = MISSING) -> Any:  # noqa: ANN401 - as `setting`
    """The address to listen on; each service has its own default."""
    return _serving(default, host_port, "The address to listen on; port 0 takes a free one.")


@dataclass(frozen=True)
class ServiceConfig:
    """The settings that every service has. Whether the checkpoint and this machine can honour a setting is checked when
    the service starts.

    Raises:
        ConfigError: a setting is out of its range, or contradicts another.
        CredentialsError: the same of a setting of security.
    """

    model: str = _model(
        MISSING,
        word,
        "The checkpoint, as a folder or a Hugging Face hub id.",
        metavar="MODEL",
    )
    listen: str = listening()
    revision: str | None = _model(
        None, word, "The revision of a hub id.", metavar="REVISION", absent="the hub's main revision"
    )
    device: str | None = _model(
        None,
        device,
        "The device to compute on: cpu, cuda or cuda:N.",
        absent="the first GPU, or the CPU where there is none",
    )
    dtype: str | None = _model(
        None,
        one_of(DTYPE_NAMES),
        "The number format of weights.",
        absent="float32 on the CPU, the checkpoint's own on a GPU",
    )
    grace_seconds: float = _serving(
        30.0,
        not_negative,
        "The seconds that running calls may go on after the service is asked to stop.",
        name="grace",
    )
    telemetry: TelemetryConfig = group(TelemetryConfig)
    security: ServerSecurity = group(ServerSecuritySettings)

    def __post_init__(self) -> None:
        check(self)
