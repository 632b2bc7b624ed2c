"""The rights in docs/security.md are those of schemas/access.py, and fit the catalogue."""

from consumers.app import ROLES
from schemas.access import ROLE_TOPICS, all_rights, topics_of
from schemas.topics import CATALOGUE, all_topics
from tests.repository import REPOSITORY

PAGE = REPOSITORY / "docs" / "security.md"
Row = tuple[str, str, str, str]


def written_down() -> list[Row]:
    """Every right of the page's table, a name at a time."""
    lines = PAGE.read_text("utf-8").splitlines()
    begin = lines.index("| user | right | on | names |") + 2
    rows: list[Row] = []
    for line in lines[begin : lines.index("", begin)]:
        user, right, kind, names = (cell.strip() for cell in line.strip("|").split("|"))
        rows += [(user, right, kind, name.strip(" `")) for name in names.split(",")]
    return rows


def test_page_lists_these_rights_and_no_others() -> None:
    rights = [
        (
            right.principal,
            right.operation,
            right.resource,
            right.name
            if right.resource == "topic"
            else f"<prefix>-{right.name}{'*' if right.prefix else ''}",
        )
        for right in all_rights()
    ]
    assert sorted(written_down()) == sorted(rights)


def test_every_role_has_its_rights() -> None:
    assert tuple(ROLE_TOPICS) == ROLES


def test_every_topic_belongs_to_one_role() -> None:
    names = [topic.name for role in ROLES for topic in topics_of(role)]
    assert sorted(names) == sorted(topic.name for topic in all_topics())


def test_only_the_inbound_topics_are_read_by_roles_and_only_the_others_written() -> None:
    ways = {topic.name: topic.direction for topic in CATALOGUE}
    for right in all_rights():
        if right.principal in ROLES and right.name in ways and right.resource == "topic":
            assert ways[right.name] == ("in" if right.operation == "Read" else "out")


def test_nobody_but_the_operator_may_create() -> None:
    assert {r.principal for r in all_rights() if r.operation == "Create"} == {"operator"}
