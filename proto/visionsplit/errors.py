"""The errors of visionsplit, the same classes in the services and in the client.

    VisionSplitError
    ├── InvalidRequestError            the request is wrong; sending it again cannot help
    │   ├── InvalidImageError          an image that cannot or must not be decoded
    │   ├── InvalidCompressionError    an unknown method or choice, a ratio outside (0, 1]
    │   ├── InvalidPromptError         no prompt, or placeholders that do not match the images
    │   │   └── PromptTooLongError     prompt and answer do not fit the context
    │   ├── InvalidPruningError        an unknown method of pruning in the language model, or a wrong value for it
    │   ├── InvalidSamplingError       a decoding option out of range or not supported
    │   ├── InvalidTokensError         an upload of vision tokens that contradicts itself
    │   └── UnknownFieldError          a field or value that this version of the service does not know
    ├── IncompatibleServicesError      the services do not belong together
    ├── UnauthenticatedError           the service asks for a token, and the call had none that it accepts
    ├── OverloadedError                a queue is full, or a message is too large
    ├── UnavailableError               draining, not reachable, or a replica was lost; a retry may help
    ├── DeadlineError                  the caller's deadline passed
    ├── CancelledError                 the caller cancelled
    └── InternalError                  a fault of the service

`visionsplit.wire.status` maps them to gRPC statuses and back.
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
    """Base of every error that visionsplit raises on purpose. Its text is safe to show to a caller."""


class InvalidRequestError(VisionSplitError):
    """The request is wrong; sending it again unchanged cannot help."""


class InvalidImageError(InvalidRequestError):
    """An image that cannot be decoded, or is larger than the service takes."""


class InvalidCompressionError(InvalidRequestError):
    """An unknown method, score, budget, selection or parameter, or a retention ratio outside (0, 1]."""


class InvalidPromptError(InvalidRequestError):
    """No prompt, a conversation the chat template refuses, or placeholders that do not match the images."""


class PromptTooLongError(InvalidPromptError):
    """Prompt and requested answer do not fit the context; the text gives the numbers."""


class InvalidPruningError(InvalidRequestError):
    """An unknown pruning method or parameter, a value out of its range, or quotas without a method that takes them."""


class InvalidSamplingError(InvalidRequestError):
    """A decoding option out of its range, or one the engine cannot honour per request."""


class InvalidTokensError(InvalidRequestError):
    """Vision tokens whose shape, type, bytes, positions or count contradict each other, or messages of an upload that
    are missing, repeated or out of order."""


class UnknownFieldError(InvalidRequestError):
    """A field, or a value of an enumeration, that this version of the service does not know. The sender may be
    newer."""


class IncompatibleServicesError(VisionSplitError):
    """The services do not belong together: tokens of another vision tower or image processor than the LLM service
    expects, no LLM service behind the encoder, or an address that belongs to another service."""


class UnauthenticatedError(VisionSplitError):
    """The service asks for a token, and the call had none that it accepts. The text does not say what was wrong."""


class OverloadedError(VisionSplitError):
    """A queue is full, or a message is larger than the service takes.

    `retry_after_seconds` is when to ask again, by the service's estimate; None where asking again cannot help.
    """

    def __init__(self, message: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(VisionSplitError):
    """The service is draining, cannot be reached, or lost the replica that served the call."""


class DeadlineError(VisionSplitError):
    """The caller's deadline passed before the answer was complete."""


class CancelledError(VisionSplitError):
    """The caller cancelled the call."""


class InternalError(VisionSplitError):
    """A fault of the service; its details are in the service's log."""
