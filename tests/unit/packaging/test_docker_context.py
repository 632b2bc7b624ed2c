"""What the Dockerfile copies is in its build context, and each package is copied."""

import re
import tomllib

from tests.repository import REPOSITORY

COPIED = re.findall(r"^COPY (?!--from)(.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.M)
LET_THROUGH = re.findall(r"^!(\S+)$", (REPOSITORY / ".dockerignore").read_text(), re.M)


def test_everything_that_is_copied_is_in_the_context() -> None:
    sources = [source for line in COPIED for source in line.split()]
    assert sources
    assert [
        s for s in sources if s.split("/")[0] not in {p.split("/")[0] for p in LET_THROUGH}
    ] == []


def test_every_package_of_the_wheel_is_copied() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) <= {source for line in COPIED for source in line.split()}
