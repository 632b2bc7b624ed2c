"""What goes wrong between a version and the host that is to serve it."""

from schemas.errors.reactions import RejectError


class OllamaRefused(RejectError):
    """Ollama does not accept the call; see its log for the reason."""

    code = "ollama_refused"


class HostFailed(RejectError):
    """The model host fails at this model, and at no other; see its own sentence and its log."""

    code = "host_failed"


class FormUnsupported(RejectError):
    """The model host does not serve this form; set MODELSERVER_HOST__FORM to auto, or replace it.

    `modelserver doctor` says which forms it serves.
    """

    code = "form_unsupported"


class QuantizationTooLossy(RejectError):
    """The quantised model forgot what the adapter knew; set `quantization: q8_0`."""

    code = "quantization_too_lossy"


class QuantizerFailed(RejectError):
    """llama.cpp's quantiser could not write the file; see its last line, or use q8_0."""

    code = "quantizer_failed"


class ChatFormatMismatch(RejectError):
    """Base model or host does not follow the chat format; check chat_format and Ollama's log."""

    code = "chat_format_mismatch"
