"""The model host that serves the personas: Ollama, or the role `host` over `llama-server`."""

from typing import Annotated, Literal

from pydantic import Field

from config.section import HostAddress, Port, Seconds, Section
from schemas.hosting import HostKind


class OllamaSettings(Section):
    """Ollama, or another server with its API."""

    host: HostAddress = "http://127.0.0.1:11434"
    """The address of Ollama, of any version."""
    timeout_s: Seconds = 300.0
    """How long one call may take, the loading of a model included."""
    keep_alive: str = "30m"
    """How long Ollama keeps a persona in memory after its last use, in Ollama's notation."""


class HostSettings(Section):
    """The model host: Ollama at `OLLAMA_HOST`, or the role `host` over `llama-server`.

    See docs/hosts.md. Most of these settings are for the role `host` alone.
    """

    kind: HostKind = "ollama"
    """`llama-server`: personas are served by our role `host` at `url`."""
    form: Literal["auto", "adapter", "merged", "shared"] = "auto"
    """The form in which a host gets a version. `auto` decides by the host's kind and version; the
    others are for an Ollama that was patched or whose version is not a number."""
    quantizer: str = "llama-quantize"
    """llama.cpp's quantiser, a path or a name on the PATH; only `quantization: q4_k_m` needs it."""
    url: HostAddress = "http://127.0.0.1:11435"
    """Where the other roles reach the role `host`."""
    bind: str = "127.0.0.1"
    """The address on which the role `host` listens. It has no password: use a private network."""
    port: Port = 11435
    """The port on which the role `host` listens; 0 takes a free one."""
    command: str = "llama-server"
    """The program that the role `host` starts, a path or a name on the PATH."""
    max_adapters: Annotated[int, Field(ge=1, le=1000)] = 32
    """How many adapters are loaded with each base; the least recently used is dropped first."""
    max_bases: Annotated[int, Field(ge=1, le=100)] = 2
    """How many base models are loaded; the least recently used is dropped first."""
    num_ctx: Annotated[int, Field(ge=256, le=131072)] = 4096
    """The context window of one request, in tokens: not less than `MODELSERVER_CHAT__NUM_CTX`."""
    slots: Annotated[int, Field(ge=1, le=256)] = 4
    """How many requests each base serves at once. A slot caches its last prompt: with a slot for
    each persona, replies begin sooner."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many threads `llama-server` uses; none: it decides by itself."""
    start_s: Seconds = 300.0
    """How long one start of `llama-server` may take."""
    drain_s: Seconds = 120.0
    """How long a `llama-server` that was replaced may go on with the requests it has begun."""
