"""Latency and throughput of many personas of one base on the real model hosts.

    python -m bench.hosts [--personas 32] [--repeats 3] [--hosts NAME,...] [--json]
    python -m bench.hosts --recall [--hosts NAME,...] [--json]

There are two tables.

Time to first token: each persona is asked on every host before the next persona (the first host
changes), so that load on the machine affects all hosts alike. Personas are served as adapters on
Ollama 0.32, merged on 0.34 (both keep `--max-loaded` models in memory; the default is Ollama's own
on a CPU), and on llama-server by `modelserver run host`, which shares the base; there, with as
many `--slots` as personas, each persona keeps its prompt cached. Each has a system prompt of an
elder's length, and no question is repeated. Round 0 is not counted: it loads what can stay loaded.

Throughput on the shared host: whole replies a second with eight concurrent questions, to one
persona and to eight, alternating.

`--recall` replaces both tables: one elder of 40 answers is trained once, and asked on each host,
in its form, everything that was taught (bench/recall.py).

Disk space: `--personas` times 292 MB for the merged files of Gemma 3 270M.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ollama

from bench.personas import copy_as_another, write_adapters, write_merged
from bench.table import show
from embedded.bases import PACKAGED_BASES, install_base
from embedded.session import model_dir
from pipeline.text.chat_format import chat_format
from schemas.hosting import Form
from schemas.training import ChatFormatName
from tests.servers.model_hosts import HOSTS, FoundHost, find_host, open_host

AT_ONCE = 8
REPLY_TOKENS = 16
NUM_CTX = 1024
_CALL_LIMIT_S = 600.0
_BASE_NAME = "bench-base"
_FORMATS: dict[str, ChatFormatName] = {"gemma3-270m": "gemma", "smollm2-135m-instruct": "chatml"}
_MEMORY = "When I was young we kept two goats behind the house and sold the milk at the gate. "


@dataclass(frozen=True)
class Host:
    """A host with all personas on it."""

    title: str
    form: Form
    client: ollama.Client

    def first_token_ms(self, persona: int, question: str) -> float:
        """Ask, and return the milliseconds until the first piece of the reply."""
        begun = time.perf_counter()
        chunks = self._ask(persona, question, tokens=2)
        next(chunks)
        elapsed_ms = (time.perf_counter() - begun) * 1000
        for _ in chunks:  # To its end, or the host would still be busy at the next question.
            pass
        return elapsed_ms

    def reply(self, persona: int, question: str) -> None:
        """Ask, and wait for the whole reply."""
        for _ in self._ask(persona, question, tokens=REPLY_TOKENS):
            pass

    def _ask(self, persona: int, question: str, tokens: int) -> Iterator[ollama.ChatResponse]:
        options = {"temperature": 0.0, "num_predict": tokens, "num_ctx": NUM_CTX}
        return self.client.chat(
            f"persona-{persona}",
            [{"role": "user", "content": question}],
            options=options,
            stream=True,
            keep_alive="60m",
        )


def main() -> None:
    """Run the benchmark."""
    options = _options()
    names = [name for name in options.hosts.split(",") if name]
    found = {name: find_host(name) for name in names}
    for name in (name for name, host in found.items() if host is None):
        print(f"SKIPPED {HOSTS[name].title}: `make hosts` builds it", file=sys.stderr)
    for host in (host for host in found.values() if host is not None and host.address):
        sys.exit(f"{host.kind.variable}_HOST: unset it; only hosts that are started here compare")
    if options.recall:
        compare_recall([host for host in found.values() if host], options)
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        base = install_base(options.base, model_dir())
        hosts = [_open(host, Path(folder), base, options, stack) for host in found.values() if host]
        rows = measure_first_tokens(hosts, options.personas, options.repeats)
        show(_title(options), rows, as_json=options.json)
        for shared in (host for host in hosts if host.form == "shared"):
            rates = measure_throughput(shared, min(AT_ONCE, options.personas), options.repeats)
            title = f"Replies a second, {AT_ONCE} at once, {REPLY_TOKENS} tokens each"
            show(f"{title} ({shared.title})", rates, as_json=options.json)


def compare_recall(hosts: list[FoundHost], options: argparse.Namespace) -> None:
    """Train an elder once and print how many of her answers each host returns."""
    # Imported late: torch takes memory, which would distort the measured times.
    from bench.recall import measure_recall, train_elder

    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        install_base(options.base, model_dir())
        elder = train_elder(options.base, model_dir(), Path(folder))
        print(f"trained with {len(elder.taught)} answers", file=sys.stderr, flush=True)
        for host in hosts:
            own = Path(folder) / host.kind.name
            own.mkdir()
            form = host.kind.form
            with open_host(host, own) as address:
                recall = measure_recall(address, form, elder, own)
            print(f"{form}, {host.kind.title}: {recall}", file=sys.stderr, flush=True)
            rows[f"{form}: {host.kind.title}, right"] = [recall.right]
            rows[f"{form}: {host.kind.title}, verbatim"] = [recall.verbatim]
    show(f"Of {len(elder.taught)} taught answers came back", rows, as_json=options.json)


def measure_first_tokens(hosts: list[Host], personas: int, repeats: int) -> dict[str, list[float]]:
    """Return each host's milliseconds, and for each pair the ratio to those of the shared host."""
    samples: dict[str, list[float]] = {host.title: [] for host in hosts}
    for round_number in range(repeats + 1):
        for persona in range(personas):
            shift = (round_number + persona) % len(hosts)
            question = f"Question {round_number}: where did you work, and with whom?"
            for host in hosts[shift:] + hosts[:shift]:
                elapsed_ms = host.first_token_ms(persona, question)
                if round_number:
                    samples[host.title].append(elapsed_ms)
        print(f"round {round_number} of {repeats}", file=sys.stderr, flush=True)
    rows = dict(samples)
    for shared in (host for host in hosts if host.form == "shared"):
        for other in (host for host in hosts if host is not shared):
            pairs = zip(samples[other.title], samples[shared.title], strict=True)
            rows[f"{other.form} / shared (paired)"] = [o / s for o, s in pairs]
    return rows


def measure_throughput(host: Host, personas: int, repeats: int) -> dict[str, list[float]]:
    """Return replies a second of one persona and of several; the two alternate."""
    ways = {"one persona": 1, f"{personas} personas": personas}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(-1, repeats):
            for name in list(ways) if number % 2 else list(ways)[::-1]:
                rate = _rate(host, pool, ways[name], f"Round {number}: what did you cook?")
                print(f"{name}: {rate:.2f} replies a second", file=sys.stderr, flush=True)
                if number >= 0:
                    rates[name].append(rate)
    rates["several / one (paired)"] = [
        several / one for one, several in zip(*list(rates.values())[:2], strict=True)
    ]
    return rates


def _rate(host: Host, pool: ThreadPoolExecutor, personas: int, question: str) -> float:
    requests = 2 * AT_ONCE
    begun = time.perf_counter()
    asked = [pool.submit(host.reply, n % personas, f"{question} {n}") for n in range(requests)]
    for each in asked:
        each.result()
    return requests / (time.perf_counter() - begun)


def _open(
    found: FoundHost, folder: Path, base: Path, options: argparse.Namespace, stack: ExitStack
) -> Host:
    """Start a host and create all personas on it, in its form."""
    own = folder / found.kind.name
    own.mkdir()
    settings = {
        "OLLAMA_MAX_LOADED_MODELS": str(options.max_loaded),
        "MODELSERVER_HOST__MAX_ADAPTERS": str(options.personas),
        "MODELSERVER_HOST__SLOTS": str(options.slots),
        "MODELSERVER_HOST__NUM_CTX": str(NUM_CTX),
    }
    address = stack.enter_context(open_host(found, own, settings))
    client = ollama.Client(address, timeout=_CALL_LIMIT_S)
    form = found.kind.form
    kept = f", {options.max_loaded} loaded" if form != "shared" else f", {options.slots} slots"
    begun = time.monotonic()
    make = _make_merged if form == "merged" else _make_adapted
    make(client, own, base, options.personas, chat_format(_FORMATS[options.base]).ollama_template)
    print(f"{found.kind.title}: filled in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return Host(f"{form}: {found.kind.title}{kept}", form, client)


def _make_adapted(
    client: ollama.Client, folder: Path, base: Path, personas: int, template: str
) -> None:
    client.create(_BASE_NAME, files={base.name: client.create_blob(base)}, stream=False)
    for number, path in enumerate(write_adapters(folder, base, personas)):
        client.create(
            f"persona-{number}",
            from_=_BASE_NAME,
            adapters={path.name: client.create_blob(path)},
            template=template,
            system=_system(number),
            stream=False,
        )
        path.unlink()


def _make_merged(
    client: ollama.Client, folder: Path, base: Path, personas: int, template: str
) -> None:
    first, path = folder / "first.gguf", folder / "merged.gguf"
    write_merged(first, base)
    for number in range(personas):
        copy_as_another(first, path, base, number)
        client.create(
            f"persona-{number}",
            files={path.name: client.create_blob(path)},
            template=template,
            system=_system(number),
            stream=False,
        )
    first.unlink()
    path.unlink()


def _system(number: int) -> str:
    return f"You are elder {number}. Tell of your own life in the first person.\n" + _MEMORY * 8


def _title(options: argparse.Namespace) -> str:
    return (
        f"Milliseconds to the first token, {options.personas} personas of "
        f"{PACKAGED_BASES[options.base].title} asked in turn, num_ctx {NUM_CTX}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--personas", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all personas")
    parser.add_argument(
        "--hosts", default=",".join(HOSTS), help="hosts to compare; those not installed are skipped"
    )
    parser.add_argument("--base", choices=tuple(_FORMATS), default="gemma3-270m")
    parser.add_argument("--recall", action="store_true", help="measure recall instead of times")
    parser.add_argument("--max-loaded", type=int, default=3, help="OLLAMA_MAX_LOADED_MODELS")
    parser.add_argument("--slots", type=int, default=AT_ONCE, help="MODELSERVER_HOST__SLOTS")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
