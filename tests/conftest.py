"""What all tests of the core share."""

from collections.abc import Iterator

import pytest

from modelrack.client import Client
from modelrack.testing.serving import Server, start_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server for all tests that do not need their own; what a test launches it terminates."""
    with start_server(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def demo_chat(server: Server) -> str:
    """Make sure that the model demo-chat runs, and return its uid."""
    with Client(server.url) as client:
        if "demo-chat" not in client.list_models():
            client.launch_model("demo-chat", model_uid="demo-chat")
    return "demo-chat"
