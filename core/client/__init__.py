"""Talk to a modelrack server from Python: `Client` blocks, `AsyncClient` is for an event loop.

Importing this package loads neither the server nor httpx; that comes with the first request.
"""

from .client import AsyncClient, Client
from .errors import (
    BadRequest,
    ClientError,
    Conflict,
    Forbidden,
    LaunchError,
    NotFound,
    NotReady,
    PayloadTooLarge,
    RequestTimeout,
    ServerError,
    ServerUnreachable,
    TooManyRequests,
    Unauthorized,
)
from .handles import AsyncModelHandle, ModelHandle, register_handle

RESTfulClient = Client
AsyncRESTfulClient = AsyncClient

__all__ = [
    "AsyncClient",
    "AsyncModelHandle",
    "AsyncRESTfulClient",
    "BadRequest",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "LaunchError",
    "ModelHandle",
    "NotFound",
    "NotReady",
    "PayloadTooLarge",
    "RESTfulClient",
    "RequestTimeout",
    "ServerError",
    "ServerUnreachable",
    "TooManyRequests",
    "Unauthorized",
    "register_handle",
]
