"""Which tokens a packed row holds, and which of them may attend to which."""

from pipeline.training.packing import group_rows, pack
from pipeline.training.tokens import Example

A = Example(prefix=(1, 2, 3), question=(10, 11), answer=(20, 21))
B = Example(prefix=(1, 2, 3), question=(12,), answer=(22, 23, 24))
OTHER = Example(prefix=(9,), question=(13,), answer=(25,))


def test_a_row_holds_the_prefix_once_and_goes_on_from_its_end() -> None:
    """Positions of each example continue from the prefix's end."""
    row = pack([A, B])
    assert row.ids.tolist() == [[1, 2, 3, 10, 11, 20, 21, 12, 22, 23, 24]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]]
    assert row.targets.tolist() == [20, 21, 22, 23, 24]
    assert row.predictors.tolist() == [4, 5, 7, 8, 9]


def test_an_example_sees_the_prefix_and_itself() -> None:
    """No token attends to another example, or to what comes after it."""
    allowed = pack([A, B]).allowed[0, 0]
    places = {"prefix": range(3), "a": range(3, 7), "b": range(7, 11)}
    for query in range(11):
        for key in range(11):
            of_query = next(name for name, place in places.items() if query in place)
            of_key = next(name for name, place in places.items() if key in place)
            expected = key <= query and of_key in ("prefix", of_query)
            assert bool(allowed[query, key]) == expected, (query, key)


def test_rows_are_cut_at_the_cap_and_where_the_prefix_changes() -> None:
    """A row has one prefix and at most so many tokens; the order is kept."""
    assert group_rows([A, B, OTHER], 11) == [[A, B], [OTHER]]
    assert group_rows([A, B], 10) == [[A], [B]]
