"""The port: names, copies and deletion. One suite for fakes and hosts."""

from tests.contract.pipeline.hosting.model_host import OPTIONS, QUESTION, HostUnderTest


def test_name_is_there_once_it_is_made(under_test: HostUnderTest) -> None:
    """In any case, and `latest` where no tag is given."""
    tag = under_test.make("there")
    assert under_test.host.has(tag) and under_test.host.has(tag.upper())
    assert not under_test.host.has(under_test.name("there"))
    assert under_test.host.has(under_test.base)
    assert not under_test.host.has(under_test.name("nobody"))


def test_name_folds_case(under_test: HostUnderTest) -> None:
    """Two elders whose ids differ in case alone would share a model."""
    tag = under_test.make("folded")
    assert under_test.host.ask(tag.upper(), QUESTION, OPTIONS).completion_tokens > 0


def test_copy_serves_and_outlives_its_original(under_test: HostUnderTest) -> None:
    tag = under_test.make("original")
    current = tag.replace(":v1", ":latest")
    under_test.host.copy(tag, current)
    assert under_test.host.delete(tag) is True
    assert tag not in under_test.host.tags()
    assert under_test.host.ask(current, QUESTION, OPTIONS).completion_tokens > 0


def test_copy_replaces_what_had_the_name(under_test: HostUnderTest) -> None:
    first, second = under_test.make("first"), under_test.make("second")
    current = f"{under_test.name('current')}:latest"
    under_test.host.copy(first, current)
    under_test.host.copy(second, current)
    assert under_test.host.tags().count(current) == 1


def test_name_without_tag_is_latest(under_test: HostUnderTest) -> None:
    name = under_test.name("untagged")
    under_test.host.copy(under_test.make("tagged"), name)
    assert f"{name}:latest" in under_test.host.tags()
    assert under_test.host.delete(f"{name}:latest") is True


def test_delete_says_whether_there_was_anything(under_test: HostUnderTest) -> None:
    tag = under_test.make("deleted")
    assert under_test.host.delete(tag) is True
    assert under_test.host.delete(tag) is False
