"""Numbers of log files: reused, and never by two servers at once."""

from pipeline.hosting.llama_process import LogNumbers


def test_number_of_a_log_is_never_two_servers() -> None:
    """A base that stays loaded keeps its log, however many starts there are after it."""
    numbers = LogNumbers(2)
    stays = numbers.take()
    others = []
    for _ in range(5):
        others.append(numbers.take())
        numbers.release(others[-1])
    assert stays not in others
    assert len({numbers.take(), numbers.take(), stays}) == 3
