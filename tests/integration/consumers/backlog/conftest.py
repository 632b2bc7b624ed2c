"""A slow Ollama, and the settings of a service before it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from config.settings import Settings
from consumers.operations.topics import apply_topics
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import open_client
from tests.integration.conftest import MakeSettings
from tests.integration.consumers.backlog.chats import ELDER
from tests.integration.consumers.models import register_model
from tests.servers.slow_ollama import SlowOllama

ANSWER_S = 0.1


@pytest.fixture
def slow_ollama() -> Iterator[SlowOllama]:
    """An Ollama that takes a tenth of a second for each answer."""
    with SlowOllama(ANSWER_S) as server:
        yield server


@pytest.fixture
def settings(make_settings: MakeSettings, slow_ollama: SlowOllama, tmp_path: Path) -> Settings:
    """Settings with the slow Ollama; the topics exist, and so does one elder with a model."""
    made = make_settings(tmp_path)
    ollama = made.ollama.model_copy(update={"host": slow_ollama.host})
    settings = made.model_copy(update={"ollama": ollama})
    apply_topics(settings)
    with closing(open_client(settings.mongodb)) as client:
        store = client[settings.mongodb.database]
        ensure_indexes(store, settings.chat.dedup_hours)
        register_model(store, ELDER, "李秀梅")
    return settings
