"""Random texts with many ends of sentences, in Chinese and English."""

from hypothesis import strategies as st

TEXT = st.text(
    st.one_of(
        st.sampled_from('。！？.!?;；…\n"”』) '),
        st.characters(codec="utf-8"),
        st.sampled_from("我老家在绍兴abcdefg"),
    ),
    max_size=300,
)
