"""The base model in memory: loaded once, lent to one job at a time, returned unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.storage.folders import check_folder
from pipeline.storage.manifests import is_sealed
from pipeline.text.chat_format import ChatFormat, chat_format
from pipeline.training.base_conversion import convert_gguf
from pipeline.training.device import choose_device, choose_dtype
from pipeline.training.lora import add_adapter, remove_adapter
from pipeline.training.tokens import check_markers
from pipeline.weights.architectures import check_architecture
from pipeline.weights.base_folder import CONFIG, weights_folder
from schemas.errors import ArtefactCorrupt, ConfigurationError
from schemas.training import BaseModelSpec, LoraParameters

transformers_logging.disable_progress_bar()
# How a multimodal model names the tensors of its language model, either as published or as
# transformers 5 saves them, and how the language model on its own names them.
_LANGUAGE_MODEL = {
    r"^(model\.)?language_model\.(model\.)?": "model.",
    r"^(model\.)?language_model\.lm_head": "lm_head",
}


class LoadedBase:
    """A frozen base model with its tokenizer and chat format."""

    def __init__(self, spec: BaseModelSpec, model: Any, tokenizer: Any) -> None:
        """Raise ChatFormatMismatch if the chat format is not that of the tokenizer."""
        self.spec = spec
        self.model = model
        self._tokenizer = tokenizer
        self.form: ChatFormat = chat_format(spec.chat_format)
        self.device: torch.device = model.device
        check_markers(self.form, self.encode)

    @property
    def bos(self) -> int | None:
        """The id of the beginning-of-text token, if the tokenizer has one."""
        token: int | None = self._tokenizer.bos_token_id
        return token

    def encode(self, text: str) -> list[int]:
        """Tokenize rendered text, its markers as special tokens; add no further special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Turn tokens into text without special tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    @contextmanager
    def lend(self, lora: LoraParameters, seed: int) -> Iterator[PeftModel]:
        """Lend the base with a fresh adapter; afterwards it has none and is as it was."""
        adapted = add_adapter(self.model, lora, seed)
        try:
            yield adapted
        finally:
            self.model = remove_adapter(adapted)


class BaseModelCache:
    """Keeps the last base model: loading one takes longer than training a small adapter."""

    def __init__(self, loaded: LoadedBase | None = None) -> None:
        """`loaded` is a base that is in memory already."""
        self._loaded = loaded

    def load(self, spec: BaseModelSpec) -> LoadedBase:
        """Return the base model, loading it unless it is the one in memory.

        Raises what `load_base` raises.
        """
        if self._loaded is None or self._loaded.spec != spec:
            self._loaded = None  # Two bases at once may not fit.
            self._loaded = load_base(spec)
        return self._loaded


def load_base(spec: BaseModelSpec) -> LoadedBase:
    """Load a base model for training, after converting its GGUF file if that was not done yet.

    A converted folder is checked by its hashes and, if it is damaged, converted again. Weights
    that an operator put there have no manifest and are taken as they are. Raises
    AdapterUnsupported, FolderNotOurs and ConfigurationError before any weight is loaded.
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
    """Load a language model; of a multimodal model, only its language model.

    Raises ConfigurationError if a tensor is missing.
    """
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
        **({} if text is whole else {"key_mapping": _LANGUAGE_MODEL}),
    )
    missing = report["missing_keys"]
    if missing:
        # transformers fills them with random numbers, and the persona would speak nonsense.
        raise ConfigurationError(
            f"base model: {folder} lacks {len(missing)} of its tensors; put all its weights there"
        )
    return model
