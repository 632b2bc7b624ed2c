"""What the embedded server is tried as: two versions of Ollama, and our own host role."""

from pipeline.hosting.server.profile import ProfileName

EMBEDDED: dict[str, ProfileName] = {
    "embedded-0.34": "ollama-0.34",
    "embedded-0.32": "ollama-0.32",
    "embedded-shared": "llama-server",
}
