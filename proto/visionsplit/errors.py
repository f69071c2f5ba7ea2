"""The exceptions of visionsplit. The services and the client use the same classes.

    VisionSplitError
    ├── InvalidRequestError            the request is wrong; sending it again cannot help
    │   ├── InvalidImageError          an image that cannot be decoded or exceeds a limit
    │   ├── InvalidCompressionError    an unknown method or parameter, or a ratio outside (0, 1]
    │   ├── InvalidPromptError         no prompt, or placeholders that do not match the images
    │   │   └── PromptTooLongError     prompt and answer do not fit the context
    │   ├── InvalidPruningError        an unknown method of pruning in the language model, or a value out of range
    │   ├── InvalidSamplingError       a decoding option out of range or not supported
    │   ├── InvalidTokensError         an upload of vision tokens that contradicts itself
    │   └── UnknownFieldError          a field or value that this version of the service does not support
    ├── IncompatibleServicesError      the services use different vision towers or image processors
    ├── UnauthenticatedError           the service requires a token, and the call had no valid one
    ├── OverloadedError                a queue is full, or a message is too large
    ├── UnavailableError               draining, unreachable, or a replica was lost; a retry may help
    ├── DeadlineError                  the caller's deadline passed
    ├── CancelledError                 the caller cancelled
    └── InternalError                  a failure inside the service

`visionsplit.wire.grpc_status` maps them to gRPC statuses and back.
"""

__all__ = [
    "CancelledError",
    "DeadlineError",
    "IncompatibleServicesError",
    "InternalError",
    "InvalidCompressionError",
    "InvalidImageError",
    "InvalidPromptError",
    "InvalidPruningError",
    "InvalidRequestError",
    "InvalidSamplingError",
    "InvalidTokensError",
    "OverloadedError",
    "PromptTooLongError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownFieldError",
    "VisionSplitError",
]


class VisionSplitError(Exception):
    """Base of every error that visionsplit raises deliberately. Its text is safe to show to a caller."""


class InvalidRequestError(VisionSplitError):
    """The request is wrong; sending it again unchanged cannot help."""


class InvalidImageError(InvalidRequestError):
    """An image that cannot be decoded, or exceeds a limit of the service."""


class InvalidCompressionError(InvalidRequestError):
    """An unknown method, score, budget, selection or parameter, or a retention ratio outside (0, 1]."""


class InvalidPromptError(InvalidRequestError):
    """No prompt, a conversation that the chat template refuses, or placeholders that do not match the images."""


class PromptTooLongError(InvalidPromptError):
    """Prompt and requested answer do not fit the context; the text states the numbers."""


class InvalidPruningError(InvalidRequestError):
    """An unknown pruning method or parameter, a value out of its range, or quotas for a method without them."""


class InvalidSamplingError(InvalidRequestError):
    """A decoding option out of its range, or one that the engine does not support."""


class InvalidTokensError(InvalidRequestError):
    """Vision tokens whose shape, type, bytes, positions or count contradict each other, or messages of an upload that
    are missing, repeated or out of order."""


class UnknownFieldError(InvalidRequestError):
    """A field, or a value of an enumeration, that this version of the service does not support. The sender may be
    newer."""


class IncompatibleServicesError(VisionSplitError):
    """Tokens come from another vision tower or image processor than the LLM service expects, the encoder has no LLM
    service, or an address belongs to another service."""


class UnauthenticatedError(VisionSplitError):
    """The service requires a token, and the call had no valid one. The text does not say what was wrong with it."""


class OverloadedError(VisionSplitError):
    """A queue is full, or a message is larger than the service accepts.

    `retry_after_seconds` is the service's estimate of when to retry; None if a retry cannot help.
    """

    def __init__(self, message: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(VisionSplitError):
    """The service is draining, is unreachable, or lost the replica that served the call."""


class DeadlineError(VisionSplitError):
    """The caller's deadline passed before the answer was complete."""


class CancelledError(VisionSplitError):
    """The caller cancelled the call."""


class InternalError(VisionSplitError):
    """A failure inside the service, whose log has the details."""
