"""The fit of a GGUF adapter to a base, checked on both headers before llama.cpp reads them."""

from typing import Final

from pipeline.weights.gguf_file import Tensor, UnusableGguf, Weights

_F32_TYPE: Final = 0
_F16_TYPE: Final = 1


class UnfitAdapter(UnusableGguf):
    """A GGUF file that is not an adapter for its base."""


def require_fit(adapter: Weights, base: Weights) -> None:
    """Raise UnfitAdapter unless llama.cpp can apply the adapter to the base.

    A wrong adapter would crash llama.cpp: one of another architecture or shape, one whose tensors
    are not pairs of `.lora_a` and `.lora_b`, or one of any type but F32 and F16.
    """
    if not adapter.is_adapter or base.is_adapter:
        raise UnfitAdapter("the adapter file is no GGUF adapter")
    if adapter.architecture != base.architecture:
        sentence = f"the adapter is for {adapter.architecture}, the base is {base.architecture}"
        raise UnfitAdapter(sentence)
    tensors = {tensor.name: tensor for tensor in adapter.tensors}
    shapes = {tensor.name: tensor.shape for tensor in base.tensors}
    for name, tensor in tensors.items():
        if tensor.type not in (_F32_TYPE, _F16_TYPE):
            raise UnfitAdapter(f"adapter tensor {name!r} is neither F32 nor F16")
        if not name.endswith((".lora_a", ".lora_b")):
            raise UnfitAdapter(f"adapter tensor {name!r} is neither .lora_a nor .lora_b")
    for target in {name[: -len(".lora_a")] for name in tensors}:
        _require_pair(target, tensors, shapes.get(target))


def _require_pair(target: str, tensors: dict[str, Tensor], shape: tuple[int, ...] | None) -> None:
    """Check A and B of one base tensor; shapes are in GGUF's order, columns first.

    A linear layer of shape (in, out) has A of (in, rank) and B of (rank, out).
    """
    a, b = tensors.get(f"{target}.lora_a"), tensors.get(f"{target}.lora_b")
    if a is None or b is None or shape is None:
        raise UnfitAdapter(f"adapter tensors for {target!r} lack a partner, or the base lacks it")
    if len(shape) != 2 or len(a.shape) != 2 or len(b.shape) != 2:
        is_fit = False
    elif target == "token_embd.weight":
        # An embedding is looked up, not multiplied: llama.cpp wants A and B the other way round.
        is_fit = (b.shape[1], a.shape[1]) == shape and a.shape[0] == b.shape[0]
    else:
        is_fit = (a.shape[0], b.shape[1]) == shape and a.shape[1] == b.shape[0]
    if not is_fit:
        raise UnfitAdapter(f"adapter tensors for {target!r} do not fit the base's {shape}")
