"""The error response of this server: a status code and a message, as Ollama sends them."""


class Refusal(Exception):
    """A request that is answered with an error, as `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class UnsupportedFile(Refusal):
    """A file that is not GGUF."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


def model_not_found(name: str) -> Refusal:
    """Return the error by which clients of Ollama recognise a missing model."""
    return Refusal(404, f"model '{name}' not found")
