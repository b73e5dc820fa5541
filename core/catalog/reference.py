"""Read references to a hub's repository, as people paste them."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

__all__ = ["HubReference", "parse_reference"]

_HOSTS = {
    "huggingface.co": "huggingface",
    "www.huggingface.co": "huggingface",
    "hf.co": "huggingface",
    "modelscope.cn": "modelscope",
    "www.modelscope.cn": "modelscope",
}
_SCHEMES = {"hf": "huggingface", "modelscope": "modelscope"}
_REFERENCE = re.compile(
    r"(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,127})"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,127}?))?"
    r"(?:/(?P<file>[^:\\\0]{1,512}\.gguf))?"
    r"(?::(?P<quantization>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?"
)
_PAGE = re.compile(r"(?P<repo>[^/]+/[^/]+)/(?:blob|resolve|tree|raw)/(?P<revision>[^/]+)(?:/(?P<file>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """A repository of a hub, and what of it is meant.

    Args:
        hub: None if the reference does not say.
    """

    repo: str
    hub: str | None = None
    revision: str | None = None
    quantization: str | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        """Return the name that a model of this repository is launched under."""
        return self.repo.rsplit("/", 1)[-1]


def parse_reference(text: str) -> HubReference | None:
    """Read `owner/repo`, with `:QUANT`, `@revision` or `/file.gguf` behind it, or the address of its page.

    Returns: None if it is nothing of that kind.
    """
    hub, rest = _split_hub(text.strip())
    if rest is None:
        return None
    page = _PAGE.fullmatch(rest) if hub else None
    if page:
        file = page["file"]
        if file is not None and not file.lower().endswith(".gguf"):
            return None
        rest = f"{page['repo']}@{page['revision']}" + (f"/{file}" if file else "")
    match = _REFERENCE.fullmatch(rest)
    if not match or ".." in rest:
        return None
    return HubReference(hub=hub, **match.groupdict())


def _split_hub(text: str) -> tuple[str | None, str | None]:
    """Return the hub that an address names, and what is behind it; (None, None) for an address elsewhere."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in _SCHEMES:
        return _SCHEMES[scheme], rest.strip("/")
    if separator:
        if scheme not in ("http", "https"):
            return None, None
        parts = urlsplit(text)
        hub, path = _HOSTS.get(parts.netloc.lower()), unquote(parts.path)
        if hub is None:
            return None, None
    else:
        host, slash, path = text.partition("/")
        hub = _HOSTS.get(host.lower()) if slash else None
        if hub is None:
            return None, text
    path = path.strip("/")
    return hub, path.removeprefix("models/") if hub == "modelscope" else path
