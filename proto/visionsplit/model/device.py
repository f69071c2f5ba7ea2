"""The device that a service's models compute on."""

import torch

from visionsplit.command_line.settings import ConfigError


def resolve_device(name: str | None) -> torch.device:
    """The device of this machine that a setting names; without a name the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: this machine does not have the device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(name or ("cuda" if gpus else "cpu"))
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(f"device is {str(device)!r}; PyTorch finds {gpus} CUDA devices on this machine")
    return device
