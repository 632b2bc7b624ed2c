"""Points: named places in the service at which a fault may strike.

The service knows nothing of them: this module wraps its methods, in the process that is to suffer.
An environment variable names the file of the plan. Each strike burns a fuse, a file, so that a
fault strikes `times` times in a run, and not again in the process that replaces the victim.
"""

import errno
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from schemas.errors import KafkaUnavailable
from schemas.hosting import MERGED_GGUF
from schemas.training import ADAPTER_FOLDER
from tests.chaos.injector import Injector

VARIABLE = "CHAOS_PLAN"


def around(
    owner: Any,
    name: str,
    before: Callable[..., None] = lambda *a, **k: None,
    after: Callable[..., None] = lambda *a, **k: None,
) -> None:
    """Wrap a method so that `before` and `after` are called around it, with its arguments."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        result = method(*args, **kwargs)
        after(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def around_async(
    owner: Any,
    name: str,
    before: Callable[..., None] = lambda *a, **k: None,
    after: Callable[..., None] = lambda *a, **k: None,
) -> None:
    """Wrap a coroutine method so that `before` and `after` are called around it."""
    method = getattr(owner, name)

    @functools.wraps(method)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        result = await method(*args, **kwargs)
        after(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def install(*, in_child: bool) -> None:
    """Wrap the methods of this process, the service or its training child, if a plan is named."""
    plan = os.environ.get(VARIABLE)
    if plan is None:
        return
    injector = Injector(Path(plan))
    _around_the_disk(injector)
    if in_child:
        _around_training(injector)
        return
    _around_the_ledger(injector)
    _around_the_models(injector)
    _around_kafka(injector)
    _around_chat(injector)


def _around_the_disk(injector: Injector) -> None:
    sync = os.fsync

    def fsync(fd: Any) -> None:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        kind = "jsonl" if "/jsonl/" in path else ""
        if path.endswith("tensors.safetensors"):
            kind = "checkpoint"
        if f"/{ADAPTER_FOLDER}/" in path:
            kind = "adapter"
        if path.endswith(f"/{MERGED_GGUF}"):
            kind = "merged"
        if kind and injector.strikes(f"sync of {kind}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    os.fsync = fsync


def _around_training(injector: Injector) -> None:
    import torch

    from pipeline.training import recipe

    # After each step: the whole training takes less than the minute between two checkpoints.
    recipe.CHECKPOINT_EVERY_S = 0.0

    def starve(*_: object) -> None:
        if injector.strikes("a training step"):
            raise torch.OutOfMemoryError("a fault of the campaign")

    around(recipe, "row_loss", starve)


def _around_the_ledger(injector: Injector) -> None:
    from pipeline.ledger.ledger import Ledger
    from pipeline.ledger.outbox import Outbox
    from pipeline.versions.registry import DatasetRegistry

    around(Ledger, "accept", injector.at("before the insert"), injector.at("after the insert"))
    around(Ledger, "finish", injector.at("before the end"), injector.at("after the end"))
    around(Outbox, "mark_published", injector.at("after the event"), injector.at("after the mark"))
    around(
        DatasetRegistry,
        "record",
        injector.at("before the data set"),
        injector.at("after the data set"),
    )


def _around_the_models(injector: Injector) -> None:
    from consumers.handlers.models import ModelsHandler
    from pipeline.hosting.ollama import OllamaHost
    from pipeline.jobs.trainer import OllamaTrainer
    from pipeline.versions.registry import ModelRegistry
    from schemas.identifiers import handed_over

    def before_copy(host: OllamaHost, source: str, target: str) -> None:
        if target.endswith(":latest"):
            injector.passed("before latest")
        else:
            is_handover = handed_over(target) is not None
            injector.passed("before the handover" if is_handover else "before the version tag")

    def after_copy(host: OllamaHost, source: str, target: str) -> None:
        if target.endswith(":latest"):
            injector.passed("after latest")

    _around_the_training(injector)
    _around_the_merge(injector)
    around(OllamaTrainer, "fence_off", injector.at("after the claim"))
    around(OllamaHost, "copy", before_copy, after_copy)
    around(ModelRegistry, "release", after=injector.at("after the release"))
    rollback = injector.at("before the rollback"), injector.at("after the rollback")
    around(ModelRegistry, "select", *rollback)
    around(ModelsHandler, "run", after=injector.at("after the command"))


def _around_the_training(injector: Injector) -> None:
    from pipeline.jobs.training_process import TrainingProcess

    run = TrainingProcess.run

    def training(self: Any, spec: Any, on_progress: Any, check: Any) -> Any:
        def note(progress: Any) -> None:
            if progress.stage == "training":
                injector.passed("in mid-training")
                written = list(spec.work_dir.glob("checkpoint-*/tensors.safetensors"))
                if written and injector.strikes("damage to the checkpoints"):
                    for path in written:
                        _change_a_bit(path)
                    os.kill(self.pid, signal.SIGKILL)
            on_progress(progress)

        outcome = run(self, spec, note, check)
        if injector.strikes("damage to the adapter"):
            _change_a_bit(outcome.gguf_path)
        if injector.strikes("damage to the data set"):
            _change_a_bit(spec.dataset_path)
        injector.passed("after the artefact")
        return outcome

    TrainingProcess.run = training  # type: ignore[method-assign]


def _around_the_merge(injector: Injector) -> None:
    from pipeline.jobs.training_process import TrainingProcess

    merge = TrainingProcess.merge

    def merging(self: Any, spec: Any, on_progress: Any, check: Any) -> Any:
        def note(progress: Any) -> None:
            injector.passed("in the merge")
            on_progress(progress)

        outcome = merge(self, spec, note, check)
        if injector.strikes("damage to the merged model"):
            _change_a_bit(outcome.path)
        injector.passed("before the create")
        return outcome

    TrainingProcess.merge = merging  # type: ignore[method-assign]


def _change_a_bit(path: Path) -> None:
    """Flip a bit of the last byte in place, as a bad disk does."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


class RefusingConsumer:
    """A consumer whose commits the broker refuses where the plan says so, at once or later."""

    def __init__(self, consumer: Any, injector: Injector, on_commit: Any) -> None:
        self._consumer = consumer
        self._injector = injector
        self._on_commit = on_commit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def commit(self, *, offsets: Any, asynchronous: bool) -> Any:
        """Commit, unless the fault strikes."""
        self._injector.passed("before the commit")
        refusal = KafkaError(KafkaError.REBALANCE_IN_PROGRESS, "a fault of the campaign")
        if self._injector.strikes("the commit"):
            raise KafkaException(refusal)
        if asynchronous and self._injector.strikes("the asynchronous commit"):
            self._on_commit(refusal, offsets)
            return None
        result = self._consumer.commit(offsets=offsets, asynchronous=asynchronous)
        self._injector.passed("after the commit")
        return result


def _around_kafka(injector: Injector) -> None:
    from consumers.kafka.loop import ConsumerLoop
    from producers.publisher import KafkaPublisher

    make = ConsumerLoop._make

    def refusing(loop: Any) -> RefusingConsumer:
        return RefusingConsumer(make(loop), injector, loop._commits.on_commit)

    ConsumerLoop._make = refusing  # type: ignore[assignment, method-assign]
    produce = KafkaPublisher._produce

    def producing(self: Any, publication: Any, told: Any) -> None:
        def and_passed(error: Exception | None) -> None:
            if error is None:
                injector.passed("after the dead letter")
            told(error)

        if not publication.topic.endswith("-dlt"):
            produce(self, publication, told)
        elif injector.strikes("the dead letter"):
            told(KafkaUnavailable())
        else:
            produce(self, publication, and_passed)

    KafkaPublisher._produce = producing  # type: ignore[method-assign]


def _around_chat(injector: Injector) -> None:
    from consumers.handlers.chat_outlet import ChatOutlet
    from pipeline.chat.store import ChatStore

    around_async(
        ChatStore,
        "remember_reply",
        injector.at("before the reply is stored"),
        injector.at("after the reply is stored"),
    )
    around_async(ChatOutlet, "reply", after=injector.at("after the reply"))
