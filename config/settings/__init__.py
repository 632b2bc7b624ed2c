"""Settings: the environment over an optional YAML file, read and checked once, at the start.

Names are `MODELSERVER_<SECTION>__<NAME>`. Four settings have common names without this prefix:
KAFKA_BOOTSTRAP_SERVERS, MONGODB_URI, MONGODB_DATABASE and OLLAMA_HOST. Each file has the groups of
one subject; docs/reference/settings.md is made from all of them.
"""

from config.section import Section
from config.settings.chat import ChatSettings
from config.settings.hosting import HostSettings, OllamaSettings
from config.settings.loading import load_settings
from config.settings.mongodb import AnswerFields, MongoSettings
from config.settings.operations import LogSettings, OpsSettings
from config.settings.root import COMMON_NAMES, CONFIG_FILE_VARIABLE, ENV_PREFIX, Settings
from config.settings.training import EvaluationSettings, RetentionSettings, WorkerSettings

__all__ = [
    "COMMON_NAMES",
    "CONFIG_FILE_VARIABLE",
    "ENV_PREFIX",
    "AnswerFields",
    "ChatSettings",
    "EvaluationSettings",
    "HostSettings",
    "LogSettings",
    "MongoSettings",
    "OllamaSettings",
    "OpsSettings",
    "RetentionSettings",
    "Section",
    "Settings",
    "WorkerSettings",
    "load_settings",
]
