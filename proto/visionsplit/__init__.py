"""Code shared by the two services, the client and the command line.

v1/         the protocol and its generated stubs
errors.py   the exception classes; grid.py the geometry of dynamic cropping; visible.py untrusted text made safe to show
wire/       the protocol's validated meaning at both ends: tensors, vision tokens, errors as gRPC statuses
network/    addresses, proxies, and channel options
options/    the parameters of a request: names, ranges and defaults
images/     image files and Pillow images to 8-bit RGB
model/      checkpoints: the only folder that imports PyTorch
security/   TLS and tokens
receiving/  bounded reception of requests by a server
serving/    what servers share besides: fairness among callers, overload, health, the log of calls
telemetry/  metrics, traces and logs
server/     the server and the process that both services are: start, health, signals, drain
command_line/  settings declared once and read from options, the environment and a file; kinds of values
"""

__version__ = "0.1.0"
