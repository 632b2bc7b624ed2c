"""The one error of this server: a status code and a sentence, as Ollama answers."""


class Refusal(Exception):
    """A request that is answered with an error, in Ollama's shape `{"error": sentence}`."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class UnsupportedFile(Refusal):
    """A file of another kind than GGUF."""

    def __init__(self, sentence: str) -> None:
        super().__init__(400, sentence)


def model_not_found(name: str) -> Refusal:
    """Return the refusal that every client of Ollama looks for."""
    return Refusal(404, f"model '{name}' not found")
