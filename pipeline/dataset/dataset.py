"""The data set: a JSONL file with one chat example per line, and a manifest of their sources.

Its name is the hash of its content, so that a job trains on exactly the answers it was accepted
with while newer ones arrive. The same answers give the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pipeline.dataset.answers import AnswerSource
from pipeline.storage.damage import set_aside
from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.files import check_file, hash_file, publish_file, temporary_beside
from pipeline.text.cleaning import CleanAnswer, Cleaner
from pipeline.text.languages import language_of
from pipeline.text.sentences import estimate_tokens
from pipeline.text.system_prompt import SystemPromptGenerator
from schemas.answers import Answer
from schemas.base import Frozen
from schemas.errors import ArtefactCorrupt, NoAnswers, UnknownElder
from schemas.identifiers import Sha256, is_elder_id

# The manifest's last field: the hash of all bytes before it.
_SEAL = b',"seal":"'


class Dataset(Frozen):
    """A data set on the disk."""

    elder_id: str
    sha256: Sha256
    path: Path
    manifest_path: Path
    examples: int
    answers: int
    """The number of answers read, whether or not they are taught."""
    skipped: dict[str, int]
    """The number of answers that were rejected or shortened, by reason."""
    system_prompt: str

    def check(self) -> None:
        """Raise ArtefactCorrupt unless data set and manifest are intact and this elder's.

        A damaged file is set aside; building the data set again replaces it.
        """
        check_file(self.path, self.sha256)
        if not self.manifest_path.is_file():
            raise ArtefactCorrupt(f"{self.manifest_path.name} is missing; it must be built again")
        # The manifest is checked by its own seal and not by a known hash: another build of the same
        # data set may have replaced it, with other counts in `skipped`.
        if not _is_manifest_of(self.manifest_path.read_bytes(), self):
            set_aside(self.manifest_path)
            raise ArtefactCorrupt(f"{self.manifest_path.name} was changed; it was set aside")


class JSONLBuilder:
    """Builds data sets below one folder.

    The class, its method and its use as a context manager are those of the original API.
    """

    def __init__(
        self,
        source: AnswerSource,
        folder: Path,
        prompts: SystemPromptGenerator,
        *,
        memories: int,
        max_seq_length: int,
    ) -> None:
        """`memories` counts the answers in the system prompt; `max_seq_length` is in tokens."""
        self._source = source
        self._folder = folder
        self._prompts = prompts
        self._memories = memories
        self._max_seq_length = max_seq_length

    def __enter__(self) -> Self:
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def build_jsonl(self, elder_id: str, elder_name: str) -> Dataset:
        """Read and clean an elder's answers and write them as a data set, completely or not at all.

        Raises:
            UnknownElder: the id is not valid, or no answer is stored under it.
            NoAnswers: none of the answers can be taught.
            StoreUnavailable: the store of answers cannot be reached.
            DiskUnavailable: the disk is full or fails.
        """
        if not is_elder_id(elder_id):
            raise UnknownElder("elder_id: not a valid id")
        counted = _Counted(self._source.answers(elder_id))
        first, system, cleaner = self._begin(elder_name, counted)
        rows = chain(first, cleaner.clean(counted))
        folder = self._folder / elder_id
        with (
            temporary_beside(folder / "new.jsonl") as lines,
            temporary_beside(folder / "new.manifest.json") as manifest,
        ):
            sha256, examples = _write_examples(rows, system, lines, manifest)
            if not counted.count:
                raise UnknownElder
            if not examples:
                raise NoAnswers
            dataset = Dataset(
                elder_id=elder_id,
                sha256=sha256,
                path=folder / f"{sha256}.jsonl",
                manifest_path=folder / f"{sha256}.manifest.json",
                examples=examples,
                answers=counted.count,
                skipped=dict(sorted(cleaner.skipped.items())),
                system_prompt=system,
            )
            _finish_manifest(dataset, manifest)
            # The data set is published last, so that an existing one always has its manifest.
            publish_file(manifest, dataset.manifest_path)
            publish_file(lines, dataset.path)
        return dataset

    def _begin(
        self, elder_name: str, answers: Iterator[Answer]
    ) -> tuple[list[CleanAnswer], str, Cleaner]:
        """Read the first answers and make the system prompt of them.

        Returns these answers cleaned, the prompt, and the cleaner for the rest. The prompt's length
        decides how many tokens question and answer may have: at least a quarter of the sequence.
        """
        opening = list(islice(answers, max(8, 2 * self._memories)))
        shown = [c.answer for c in Cleaner(self._max_seq_length).clean(opening) if c.part == 0]
        language = language_of("".join(shown)) if shown else None
        system = self._prompts.generate(elder_name, shown[: self._memories], language)
        budget = max(self._max_seq_length - estimate_tokens(system), self._max_seq_length // 4)
        cleaner = Cleaner(budget)
        return list(cleaner.clean(opening)), system, cleaner


class _Counted(Iterator[Answer]):
    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = iter(answers)
        self.count = 0

    def __next__(self) -> Answer:
        answer = next(self._answers)
        self.count += 1
        return answer


def _write_examples(
    rows: Iterable[CleanAnswer], system: str, lines: IO[bytes], manifest: IO[bytes]
) -> tuple[str, int]:
    """Write examples and the manifest's list of answers; return the data set's hash and length."""
    digest = hashlib.sha256()
    count = 0
    manifest.write(b'{"answers":[')
    for row in rows:
        line = _encode({"messages": _messages(system, row)})
        lines.write(line)
        digest.update(line)
        entry = {"id": row.answer_id, "part": row.part, "sha256": _hash(row)}
        manifest.write((b",\n" if count else b"\n") + _encode(entry).rstrip())
        count += 1
    return digest.hexdigest(), count


def _messages(system: str, row: CleanAnswer) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": row.question},
        {"role": "assistant", "content": row.answer},
    ]


def _finish_manifest(dataset: Dataset, manifest: IO[bytes]) -> None:
    totals = {
        "elder_id": dataset.elder_id,
        "dataset_sha256": dataset.sha256,
        "examples": dataset.examples,
        "read": dataset.answers,
        "skipped": dataset.skipped,
    }
    manifest.write(b"\n]," + _encode(totals).strip()[1:-1])
    manifest.flush()
    seal = hash_file(Path(manifest.name))
    manifest.write(_SEAL + seal.encode() + b'"}\n')


def _is_manifest_of(content: bytes, dataset: Dataset) -> bool:
    """Say whether these bytes are a complete manifest of this data set."""
    sealed, _, seal = content.rpartition(_SEAL)
    if seal != hashlib.sha256(sealed).hexdigest().encode() + b'"}\n':
        return False
    told = json.loads(content)
    return (told["elder_id"], told["dataset_sha256"]) == (dataset.elder_id, dataset.sha256)


def _hash(row: CleanAnswer) -> str:
    return hashlib.sha256(f"{row.question}\0{row.answer}".encode()).hexdigest()


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
