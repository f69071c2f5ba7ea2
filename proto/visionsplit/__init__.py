"""What the two services, the client and the command line share.

v1/         the protocol and its generated stubs
errors.py   the tree of errors; grid.py the geometry of dynamic cropping; visible.py text that is safe to show
wire/       the protocol's checked meaning, the same at both ends: tensors, vision tokens, errors as statuses
network/    addresses, proxies, and the settings of channels
options/    the parameters of a request: their names, ranges and defaults
images/     image files and Pillow images as 8-bit RGB
model/      checkpoints: the only folder that imports PyTorch
security/   TLS and tokens
receiving/  how a server receives requests within bounds
serving/    what servers share beside that: turns among callers, overload, health, the log of calls
telemetry/  metrics, traces and logs
cli/        options that all command lines share
"""

__version__ = "0.1.0"
