"""A scheduler over a store with personas, a fake llama.cpp and a fake clock."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.load_report import LoadReport
from pipeline.hosting.server.runners.scheduler import Scheduler
from tests.fakes.llama_runner import FakeLlama, FakeLlamaRunner
from tests.unit.pipeline.hosting.server.models.gguf_blobs import ADAPTER, BASE, put

LIMIT_S = 20.0
CONTEXT = 512


class World:
    """A scheduler over a store with personas, a fake llama.cpp and a fake clock."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.llama = FakeLlama()
        self.now = 1000.0
        self.reports: list[LoadReport] = []
        self.threads = ThreadPoolExecutor(64)
        self.scheduler = Scheduler(
            self.store, self.llama, Capacity(), threads=1, clock=lambda: self.now
        )

    def limit(self, **capacity: object) -> None:
        """Replace the scheduler by one with other limits."""
        self.scheduler = Scheduler(
            self.store,
            self.llama,
            Capacity.model_validate(capacity),
            threads=1,
            clock=lambda: self.now,
            on_load=self.reports.append,
        )

    def base(self, name: str) -> str:
        return put(self.store, BASE + name.encode())

    def persona(self, name: str, base: str = "base") -> Manifest:
        """Create a persona with its own adapter."""
        return self._save(name, self.base(base), (put(self.store, ADAPTER + name.encode()),))

    def plain(self, base: str = "base") -> Manifest:
        return self._save(f"plain-{base}", self.base(base), ())

    def _save(self, name: str, base: str, adapters: tuple[str, ...]) -> Manifest:
        self.now += 1
        manifest = Manifest(
            name=f"{name}:latest",
            digest=hashlib.sha256(name.encode()).hexdigest(),
            modified_at=f"{self.now:020.3f}",
            size=1,
            base=base,
            adapters=adapters,
            parent="",
            template="",
            system="",
            parameters={},
            messages=(),
            licenses=(),
            architecture="llama",
            parameter_size="1M",
            quantization="F32",
        )
        self.store.save(manifest)
        return manifest

    def ask(self, model: Manifest, context: int = CONTEXT) -> FakeLlamaRunner:
        """Complete a prompt, check that only this model's adapters applied, return the runner."""
        with self.scheduler.acquire(model, context) as runner:
            heard: list[str] = []

            def on_piece(text: str) -> bool:
                heard.append(text)
                return False

            usage = runner.complete(
                "Hello",
                Options(),
                adapters=model.adapters,
                cuts=True,
                schema=None,
                on_piece=on_piece,
            )
            assert usage.done_reason == "stop"
            assert heard == list(model.adapters or ("plain",))
            assert isinstance(runner, FakeLlamaRunner)
            return runner

    def ask_in_thread(self, model: Manifest) -> Future[FakeLlamaRunner]:
        self.now += 1
        return self.threads.submit(self.ask, model)

    def open_runners(self) -> list[FakeLlamaRunner]:
        return [each for each in self.llama.loads if not each.closed.is_set()]

    def close(self) -> None:
        self.llama.gate.set()
        self.scheduler.close()
        self.threads.shutdown()
        self.store.close()
