"""The base model in memory: loaded once, lent to one job at a time, given back unchanged."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.files import check_folder, folder_written_whole, remove_remains
from pipeline.storage.manifests import is_sealed, require_ours
from pipeline.text.chat_format import ChatFormat, chat_format
from pipeline.training.device import choose_device, choose_dtype
from pipeline.training.tokens import check_markers
from pipeline.weights.architectures import check_architecture
from pipeline.weights.base_folder import CONFIG, weights_folder
from schemas.errors import ArtefactCorrupt, ConfigurationError
from schemas.training import BaseModelSpec, LoraParameters

transformers_logging.disable_progress_bar()
# Where a model that sees too keeps its language part: as published, and as transformers 5 saves.
_LANGUAGE_PART = {
    r"^(model\.)?language_model\.(model\.)?": "model.",
    r"^(model\.)?language_model\.lm_head": "lm_head",
}


class LoadedBase:
    """A frozen base model with its tokenizer."""

    def __init__(self, spec: BaseModelSpec, model: Any, tokenizer: Any) -> None:
        self.spec = spec
        self.model = model
        self._tokenizer = tokenizer
        self.form: ChatFormat = chat_format(spec.chat_format)
        self.device: torch.device = model.device
        check_markers(self.form, self.encode)

    @property
    def bos(self) -> int | None:
        """The token that begins a text."""
        token: int | None = self._tokenizer.bos_token_id
        return token

    def encode(self, text: str) -> list[int]:
        """Tokenize text that holds its markers; nothing is added."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Turn tokens into text, without markers."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    @contextmanager
    def lend(self, lora: LoraParameters, seed: int) -> Iterator[PeftModel]:
        """Lend the base with a fresh adapter on all linear layers; afterwards it has none."""
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(self.model, config)
        try:
            yield adapted
        finally:
            self.model = adapted.unload()
            self.model.requires_grad_(False)


class BaseModelCache:
    """Keeps the last base model: loading one takes longer than training a small adapter."""

    def __init__(self, loaded: LoadedBase | None = None) -> None:
        """`loaded` is a base that is in memory already."""
        self._loaded = loaded

    def load(self, spec: BaseModelSpec) -> LoadedBase:
        """Return the base model, loading it unless it is the one in memory.

        Raises ConfigurationError where the weights are missing.
        """
        if self._loaded is None or self._loaded.spec != spec:
            self._loaded = None  # Two bases at once may not fit.
            self._loaded = load_base(spec)
        return self._loaded


def load_base(spec: BaseModelSpec) -> LoadedBase:
    """Load a base model for training; converts its GGUF file the first time.

    What was converted here is checked by hash, and converted again where it was damaged. Weights
    that others put there have no manifest and are taken as they are. Raises AdapterUnsupported,
    FolderNotOurs and ConfigurationError before anything is loaded.
    """
    folder = weights_folder(spec)
    if is_sealed(folder):
        with suppress(ArtefactCorrupt):  # It was set aside, and is converted again below.
            check_folder(folder)
        folder = weights_folder(spec)
    check_architecture(spec)
    if not (folder / CONFIG).is_file():
        convert_gguf(spec.gguf_path, folder)
    device = choose_device()
    model = load_model(folder, dtype=choose_dtype(device)).to(device)
    model.requires_grad_(False)
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return LoadedBase(spec, model, tokenizer)


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Load a language model; of one that sees too, its language part alone."""
    whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = whole.get_text_config()
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        config=text,
        dtype=dtype,
        attn_implementation="sdpa",
        use_safetensors=True,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        **({} if text is whole else {"key_mapping": _LANGUAGE_PART}),
    )
    missing = report["missing_keys"]
    if missing:
        # They would be random numbers, and the persona would speak nonsense.
        raise ConfigurationError(
            f"base model: {folder} lacks {len(missing)} of its tensors; put all its weights there"
        )
    return model


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Unpack a GGUF file into safetensors and a tokenizer, once; the weights stay equal.

    What is trained on is then exactly what Ollama serves. Safe when several processes do it.
    Raises FolderNotOurs where `folder` holds anything else, the GGUF file included.
    """
    if not gguf.is_file():
        raise ConfigurationError(
            f"base model: found neither {folder} nor {gguf}; put the weights there or set "
            "MODELSERVER_MODEL_DIR"
        )
    if (folder / CONFIG).is_file():
        return
    require_ours(folder)
    with disk_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(), (folder.parent / ".convert.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / CONFIG).is_file():
            return  # Another process did it while this one waited.
        # Remains of a killed one can be many gigabytes; the lock says that nobody is at them.
        remove_remains(folder)
        with folder_written_whole(folder) as partial:
            _convert(gguf, partial)


def _convert(gguf: Path, folder: Path) -> None:
    source = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        dtype=torch.float32,
        # Without this the weights stay packed, and a training step takes minutes.
        quantization_config=GgufConfig(dequantize=True),
        **source,
    )
    # The weights are plain now; a loader must not take them for packed ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
