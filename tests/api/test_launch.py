"""What a launch says about the environment of its workers."""

from typing import Any

import pytest
from pydantic import ValidationError

from modelrack.api.launch import LaunchRequest


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, None),
        ({"environment": "auto"}, None),
        ({"environment": ""}, None),
        ({"environment": "server"}, "server"),
        ({"environment": "/opt/e"}, "/opt/e"),
        ({"environment": "~/e"}, "~/e"),
        ({"enable_virtual_env": True}, "isolated"),
        ({"enable_virtual_env": False}, "server"),
        ({"virtual_env_packages": ["a>=1"]}, "isolated"),
        ({"virtual_env_packages": []}, None),
        ({"environment": "isolated", "enable_virtual_env": True, "virtual_env_packages": ["a"]}, "isolated"),
        ({"environment": "server", "enable_virtual_env": False, "virtual_env_packages": []}, "server"),
    ],
)
def test_the_environment_that_is_wanted(given: dict[str, Any], wanted: str | None) -> None:
    request = LaunchRequest(model_name="m", **given)
    assert request.wanted_environment == wanted
    assert LaunchRequest.model_validate(request.model_dump(mode="json")).wanted_environment == wanted


def test_packages_are_requirements_by_name() -> None:
    given = ["a", " b[c]>=1,<2 ; python_version > '3' ", "d\n"]
    request = LaunchRequest(model_name="m", virtual_env_packages=given)
    assert request.virtual_env_packages == ["a", 'b[c]<2,>=1; python_version > "3"', "d"]


@pytest.mark.parametrize(
    "package", ["", "-r x", "--pre", "a @ https://x/a.whl", "./a", "a\n-r x", "a --hash=x", "git+https://x"]
)
def test_other_packages_are_refused(package: str) -> None:
    with pytest.raises(ValidationError, match="virtual_env_packages"):
        LaunchRequest(model_name="m", virtual_env_packages=[package])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"environment": "server", "enable_virtual_env": True}, "environment and enable_virtual_env"),
        ({"environment": "/x", "virtual_env_packages": ["a"]}, "environment and virtual_env_packages"),
        ({"enable_virtual_env": False, "virtual_env_packages": ["a"]}, "enable_virtual_env and virtual_env_packages"),
        ({"environment": "isolatd"}, "environment"),
        ({"environment": "/x\0"}, "environment"),
        ({"environment": ["server"]}, "environment"),
    ],
)
def test_contradictions_are_refused_by_name(given: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        LaunchRequest(model_name="m", **given)
