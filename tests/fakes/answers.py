"""The source of elders' answers, in memory."""

from collections.abc import Iterator

from schemas.answers import Answer


class ListedAnswers:
    """Serves question and answer pairs by elder id; `names` maps elder ids to names."""

    def __init__(self, answers: dict[str, list[tuple[str, str]]], **names: str) -> None:
        self._answers = answers
        self._names = names

    def answers(self, elder_id: str) -> Iterator[Answer]:
        """Yield the elder's answers."""
        for number, (question, answer) in enumerate(self._answers.get(elder_id, [])):
            yield Answer(id=f"a{number}", question=question, answer=answer)

    def elder_name(self, elder_id: str) -> str | None:
        """Return the elder's name."""
        return self._names.get(elder_id)
