"""Our client can be put in the place of Xinference's: same names, same arguments, same defaults."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from modelrack.client import AsyncClient, Client, RESTfulClient, handles
from releases import import_client, install_client

CLIENT = [
    "list_models",
    "launch_model",
    "terminate_model",
    "get_model",
    "describe_model",
    "register_model",
    "unregister_model",
    "list_model_registrations",
    "get_model_registration",
    "query_engine_by_model_name",
    "get_launch_model_progress",
    "cancel_launch_model",
    "get_instance_info",
    "list_cached_models",
    "list_deletable_models",
    "confirm_and_remove_model",
    "add_model_replica",
    "terminate_model_replica",
    "abort_request",
    "get_progress",
    "get_workers_info",
    "get_supervisor_info",
    "vllm_models",
]
HANDLES = {
    "Generate": ["generate"],
    "Chat": ["chat", "generate"],
    "Embedding": ["create_embedding", "convert_ids_to_tokens"],
    "Rerank": ["rerank"],
    "Image": ["text_to_image", "image_to_image", "image_edit", "inpainting", "ocr"],
    "Video": ["text_to_video", "image_to_video", "flf_to_video"],
    "Audio": ["transcriptions", "translations", "speech"],
}


@pytest.fixture(scope="module")
def xinference(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Get the client of release 4, whose signatures these are."""
    folder = install_client(tmp_path_factory.mktemp("client"), "4.1.0")
    return import_client(folder, "xinference_client.client.restful.restful_client")


def _arguments(method: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return name and default of each argument that Xinference's callers may give."""
    parameters = inspect.signature(method).parameters.values()
    return {
        each.name: (each.default, each.kind is each.VAR_KEYWORD)
        for each in parameters
        if each.name not in ("self", "me")
    }


def _compare(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    mine, wanted = _arguments(ours), _arguments(theirs)
    positional = [name for name in mine if name in wanted]
    assert positional == list(wanted), "names and order"
    for name, (default, is_rest) in wanted.items():
        # An argument that Xinference demands may be left out with us.
        assert mine[name] == (default, is_rest) or default is inspect.Parameter.empty, name


@pytest.mark.parametrize("name", CLIENT)
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_client(xinference: ModuleType, client: type, name: str) -> None:
    _compare(getattr(client, name), getattr(xinference.Client, name))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in HANDLES.items() for name in names])
@pytest.mark.parametrize("prefix", ["", "Async"])
def test_handle(xinference: ModuleType, prefix: str, kind: str, name: str) -> None:
    ours = getattr(handles, f"{prefix}{kind}Handle")
    theirs = getattr(xinference, f"RESTful{kind}ModelHandle")
    _compare(getattr(ours, name), getattr(theirs, name))


def test_names() -> None:
    assert RESTfulClient is Client
    assert inspect.iscoroutinefunction(AsyncClient.launch_model)
    assert not inspect.iscoroutinefunction(Client.launch_model)
