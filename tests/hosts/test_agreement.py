"""A real host says what transformers and peft say: greedy text of one voice, in the host's form."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from config.settings import OllamaSettings
from pipeline.hosting.ollama import OllamaHost
from pipeline.training.base_model import LoadedBase
from tests.models.agreement import (
    LEAST_SHARE_QUANTISED,
    TOKENS,
    Voice,
    agreement,
    ask_all,
    described,
    make_voice,
)
from tests.models.random_weights import merge_adapter
from tests.servers.model_hosts import FoundHost

# peft asks transformers for a name that transformers is giving up.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.timeout(900),  # On a busy machine a base takes minutes to convert and teach.
]


@pytest.fixture(scope="module")
def host(real_host: tuple[FoundHost, str]) -> Iterator[OllamaHost]:
    _, address = real_host
    host = OllamaHost(OllamaSettings(host=address))
    yield host
    host.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Voice, LoadedBase]:
    return make_voice("smollm2-135m-instruct", tmp_path_factory.mktemp("voice"))


@pytest.fixture
def run(host: OllamaHost) -> Iterator[str]:
    """What the names of this test begin with; its models are removed."""
    name = f"agreement-{uuid4().hex[:8]}"
    yield name
    for tag in host.tags(name):
        host.delete(tag)


def say(
    host: OllamaHost, run: str, made: tuple[Voice, LoadedBase], base: Path, folder: Path
) -> list[int]:
    """Serve the voice on a base in the host's first form; count the tokens that agree."""
    voice, loaded = made
    form, tag = host.describe().forms[0], f"{run}-voice"
    if form == "merged":
        file = folder / "merged.gguf"
        merge_adapter(file, base, voice.adapter)
        host.create(tag, described(voice, loaded, form, None, file))
    else:
        host.ensure_base(f"{run}-base", base)
        host.create(tag, described(voice, loaded, form, f"{run}-base", voice.adapter))
    return agreement(loaded, voice.expected, ask_all(host, tag))


def test_voice_on_an_f16_base_says_what_peft_says(
    host: OllamaHost, run: str, made: tuple[Voice, LoadedBase], tmp_path: Path
) -> None:
    """All tokens of all texts; and it is heard: the base alone says something else."""
    voice, _ = made
    assert not any(b.startswith(a) for a, b in zip(voice.plain, voice.expected, strict=True))
    counts = say(host, run, made, voice.base.gguf_path, tmp_path)
    assert counts == [TOKENS] * len(voice.expected)


def test_voice_on_the_quantised_base_agrees_for_the_stated_share(
    host: OllamaHost, run: str, made: tuple[Voice, LoadedBase], tmp_path: Path
) -> None:
    voice, _ = made
    counts = say(host, run, made, voice.quantised, tmp_path)
    assert sum(counts) >= LEAST_SHARE_QUANTISED * TOKENS * len(counts), counts
