"""The versions of Ollama that the embedded server is tried as."""

from pipeline.hosting.server.profile import ProfileName

EMBEDDED: dict[str, ProfileName] = {
    "embedded-0.34": "ollama-0.34",
    "embedded-0.32": "ollama-0.32",
}
