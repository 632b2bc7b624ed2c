"""A served persona says what transformers and peft say with the trained adapter."""

from collections.abc import Iterator

import pytest

from config.settings import OllamaSettings
from embedded.stack import OllamaServer
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
    serve,
)

# peft asks transformers for a name that transformers is giving up.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.timeout(900),  # On a busy machine a base takes minutes to convert and teach.
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaHost]:
    server = OllamaServer(tmp_path_factory.mktemp("ollama"), "ollama-0.32")
    with server.process:
        host = OllamaHost(OllamaSettings(host=server.host))
        yield host
        host.close()


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", "gemma3-270m"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Voice, LoadedBase]:
    return make_voice(request.param, tmp_path_factory.mktemp("voice"))


def test_f16_base_and_adapter_say_what_peft_says(
    host: OllamaHost, made: tuple[Voice, LoadedBase]
) -> None:
    """All tokens of all texts; and the adapter is heard: the base alone says something else."""
    voice, loaded = made
    serve(host, f"f16-{voice.base.key}", voice, loaded, "adapter")
    found = ask_all(host, f"f16-{voice.base.key}")
    assert agreement(loaded, voice.expected, found) == [TOKENS] * len(found)
    assert not any(b.startswith(a) for a, b in zip(voice.plain, voice.expected, strict=True))


def test_quantised_base_and_adapter_agree_for_the_stated_share(
    host: OllamaHost, made: tuple[Voice, LoadedBase]
) -> None:
    voice, loaded = made
    tag = f"quantised-{voice.base.key}"
    host.ensure_base(f"{tag}-base", voice.quantised)
    host.create(tag, described(voice, loaded, "adapter", f"{tag}-base", voice.adapter))
    counts = agreement(loaded, voice.expected, ask_all(host, tag))
    assert sum(counts) >= LEAST_SHARE_QUANTISED * TOKENS * len(counts), counts
