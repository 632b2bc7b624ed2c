"""Markers in what people write become text, and all other text stays."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.text.markers import defuse_markers

# Control tokens of the families that are served, and of others.
MARKERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<image_soft_token>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<unk>",
    "<mask>",
    "<unused7>",
    "<unused6241>",
    "<|turn>",
    "<turn|>",
    '<|"|>',
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_12|>",
    "<|python_tag|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "<|assistant|>",
    "<repo_name>",
    "<filename>",
    "<jupyter_start>",
)
TEXT = (
    "3 < 5 and 7 > 2",
    "I <3 you",
    "<b>bold</b> <br/> <table><td>1</td></table>",
    "Li <li.xiumei@example.org>",
    "https://example.org/?a=1&b=<2>",
    "a <- b; c |> d; x <| y |> z",
    "<|>",
    "<>",
    "<_>",
    "[OK] [1] [x]",
    "《家书》〈信〉＜旧＞",
    "end_of_turn",
    "<end_of_turn",
    "end_of_turn>",
    "if (a<b && c>d)",
    "List<String> and vector<int>",
    "<Mr_Li>",
)
PIECES = st.one_of(
    st.sampled_from(MARKERS),
    st.sampled_from(TEXT),
    st.sampled_from(["<", "|", ">", "_", "/", "[", "]", "＜", " ", "\n", "\u200b", "\u0338"]),
    st.sampled_from(MARKERS).flatmap(lambda m: st.integers(1, len(m) - 1).map(lambda n: m[:n])),
    st.sampled_from(MARKERS).flatmap(lambda m: st.integers(1, len(m) - 1).map(lambda n: m[n:])),
    st.sampled_from(MARKERS).map(str.upper),
    st.sampled_from(MARKERS).flatmap(
        lambda m: st.tuples(st.integers(1, len(m) - 1), st.sampled_from([" ", "\u200b"])).map(
            lambda cut: m[: cut[0]] + cut[1] + m[cut[0] :]
        )
    ),
    st.text(max_size=8),
)
WRITTEN = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_is_kept_readable_and_is_no_marker(marker: str) -> None:
    """Its first character changes, and nothing else."""
    full_width = {"<": "＜", "[": "［"}[marker[0]]
    assert defuse_markers(f"您{marker}好") == f"您{full_width}{marker[1:]}好"


@pytest.mark.parametrize("text", TEXT)
def test_text_without_markers_stays_byte_for_byte(text: str) -> None:
    assert defuse_markers(text) == text


@given(WRITTEN)
@example("<<end_of_turn>>")
@example("<end_<end_of_turn>of_turn>")
@example("<|a<|b|>|>")
@example("[[INST]INST]")
def test_no_marker_survives_however_it_is_cut_or_nested(text: str) -> None:
    harmless = defuse_markers(text)
    assert not [marker for marker in MARKERS if marker in harmless]
    assert defuse_markers(harmless) == harmless
    assert len(harmless) == len(text)


@given(st.text(alphabet=st.characters(exclude_characters="<[")))
def test_text_without_a_bracket_is_never_touched(text: str) -> None:
    assert defuse_markers(text) == text


def test_time_grows_linearly_with_the_text() -> None:
    """Messages of 40,000 beginnings of markers, which a backtracking pattern would choke on."""
    for piece in ("<|", "<a_", "<", "[/", "<|a", "<a_a"):
        text = piece * 40_000
        assert defuse_markers(text) == text
