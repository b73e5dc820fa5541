"""How files are fetched from hubs. Imported only by the process that downloads; a hub's own package is heavy."""

import contextlib
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..errors import LaunchFailed

__all__ = [
    "Choose",
    "Fetch",
    "FetchRequest",
    "Report",
    "Snapshot",
    "fetch_huggingface",
    "fetch_modelscope",
    "folder_bytes",
]

Choose: TypeAlias = Callable[[Mapping[str, int | None]], Sequence[str]]
"""From the files of a repository (path: bytes, if known) those to download."""

Report: TypeAlias = Callable[[str, int], None]
"""`report(file, bytes)`: so many bytes more of this file are here; also for what was here before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """What to fetch.

    Args:
        folder: the hub's own folder in the cache; its layout is the hub's affair.
    """

    repo: str
    revision: str | None
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was fetched.

    Args:
        folder: holds the files under the paths they have in the repository.
        commit: the revision that was fetched, as exactly as the hub names it.
    """

    folder: Path
    commit: str
    files: tuple[str, ...]


class Fetch(Protocol):
    """Fetches files from a hub. Runs in a process of its own, and may be killed at any moment and called again."""

    def __call__(self, request: FetchRequest, choose: Choose, report: Report) -> Snapshot:
        """List the repository's files, download those that `choose` names, and tell the progress.

        What is here already must not be downloaded again, and a partial file should be continued.

        Raises: LaunchFailed: with the reason for a person, and the remedy.
        """


_CHUNK = 1 << 20
_RETRIES = 5
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_LARGEST_PLAIN = 50 * 10**9  # the hub serves larger files by its own protocol alone
_NETWORK_ERRORS = {"ConnectError", "TransportError", "TimeoutException", "ConnectionError", "RequestException"}
"""Versions of the hub's client use different HTTP libraries; these names of their errors cover them."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_huggingface(request: FetchRequest, choose: Choose, report: Report) -> Snapshot:
    """Fetch from Hugging Face, or the mirror that `HF_ENDPOINT` names, into the layout of its own cache.

    Large files are downloaded here: the hub's client starts them anew in each process (since version 1.0).
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="modelrack")
    with _explained(request.repo, request.revision):
        info = api.model_info(request.repo, revision=request.revision, files_metadata=True)
    commit = str(info.sha)
    sizes: dict[str, int | None] = {item.rfilename: item.size for item in info.siblings or ()}
    names = tuple(choose(sizes))
    folder: Path | None = None
    with _explained(request.repo, request.revision):
        for name in names:
            path = _fetch_file(request, commit, name, sizes.get(name), report)
            folder = Path(str(path)[: -len(name) - 1])
    if folder is None:
        raise LaunchFailed(f"Nothing of {request.repo} was chosen for download.")
    return Snapshot(folder=folder, commit=commit, files=names)


def _fetch_file(request: FetchRequest, commit: str, name: str, size: int | None, report: Report) -> str:
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url, try_to_load_from_cache

    there = try_to_load_from_cache(request.repo, name, cache_dir=request.folder, revision=commit)
    if isinstance(there, str) and os.path.exists(there):
        report(name, os.path.getsize(there))
        return there
    reported = 0
    if size is not None and _CHUNK < size <= _LARGEST_PLAIN:
        url = hf_hub_url(request.repo, name, revision=commit)
        metadata = get_hf_file_metadata(url)
        blobs = request.folder / f"models--{request.repo.replace('/', '--')}" / "blobs"
        etag = str(metadata.etag or "")
        if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", etag):
            token = get_token()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            _download_blob(url, headers, blobs / etag, metadata.size or size, lambda count: report(name, count))
            reported = size
    path = hf_hub_download(request.repo, name, revision=commit, cache_dir=request.folder, library_name="modelrack")
    if reported == 0:
        report(name, os.path.getsize(path))
    return path


def _download_blob(
    url: str, headers: Mapping[str, str], target: Path, size: int, report: Callable[[int], None]
) -> None:
    """Download a file beside its final place, continuing what an earlier process left, and check it.

    Raises: OSError; httpx.HTTPError; LaunchFailed: it is not what the hub says it is.
    """
    if target.exists():
        report(size)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.modelrack.incomplete")
    with _locked(unfinished.with_suffix(".lock")), unfinished.open("a+b") as stream:
        if target.exists():
            report(size)
            return
        digest = hashlib.sha256()
        _resume(stream, digest, size, report)
        _receive(url, headers, stream, digest, size, report)
        stream.flush()
        os.fsync(stream.fileno())
        if _SHA256.fullmatch(target.name) and digest.hexdigest() != target.name:
            unfinished.unlink(missing_ok=True)
            raise LaunchFailed(
                f"{url.rsplit('/', 1)[-1]} arrived with other contents than the hub announced.", remedy="Try again."
            )
        os.replace(unfinished, target)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock against other downloads of the same file; it ends with the process."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _resume(stream: Any, digest: Any, size: int, report: Callable[[int], None]) -> None:
    """Read what is there already, for the checksum."""
    if stream.seek(0, os.SEEK_END) > size:
        stream.truncate(0)
    stream.seek(0)
    while block := stream.read(_CHUNK):
        digest.update(block)
        report(len(block))


def _receive(
    url: str, headers: Mapping[str, str], stream: Any, digest: Any, size: int, report: Callable[[int], None]
) -> None:
    import httpx

    failures = 0
    with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(30, connect=10)) as client:
        while (position := stream.seek(0, os.SEEK_END)) < size:
            ranged = {"Range": f"bytes={position}-"} if position else {}
            try:
                with client.stream("GET", url, headers={**headers, **ranged, "Accept-Encoding": "identity"}) as answer:
                    if answer.status_code in _BUSY:
                        raise httpx.RemoteProtocolError(f"the hub answered with status {answer.status_code}")
                    answer.raise_for_status()
                    if position and answer.status_code != 206:
                        raise LaunchFailed(f"The server of {url} cannot continue a partial download.")
                    for block in answer.iter_raw(_CHUNK):
                        if position + len(block) > size:
                            raise LaunchFailed(f"{url} is larger than the hub announced.")
                        stream.write(block)
                        digest.update(block)
                        report(len(block))
                        position += len(block)
                        failures = 0
            except httpx.TransportError:
                failures += 1
                if failures > _RETRIES:
                    raise
                time.sleep(min(2.0**failures / 4, 10))


@contextlib.contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into errors with a remedy.

    Raises: LaunchFailed.
    """
    import httpx
    from huggingface_hub import constants, errors

    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
    try:
        yield
    except errors.GatedRepoError as error:
        raise LaunchFailed(
            f"Repository {repo} is gated: its owners ask you to accept their terms.",
            remedy=f"Accept them at {constants.ENDPOINT}/{repo}, then set HF_TOKEN to a token of yours.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise LaunchFailed(
            f"The hub {constants.ENDPOINT} has no repository {repo}, or it is private.",
            remedy="Check the name; for a private one, set HF_TOKEN to a token that may read it.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise LaunchFailed(f"Repository {repo} has no revision '{revision}'.", remedy="Check the revision.") from error
    except errors.HFValidationError as error:
        raise LaunchFailed(f"'{repo}' is no name of a repository.", remedy="It is written owner/name.") from error
    except offline as error:
        if constants.HF_HUB_OFFLINE:
            raise LaunchFailed(
                f"{repo} is not downloaded yet, and offline mode is on (HF_HUB_OFFLINE).",
                remedy="Unset HF_HUB_OFFLINE and start the server again, or give a model on this machine.",
            ) from error
        raise _unreachable(constants.ENDPOINT, error) from error
    except (errors.HfHubHTTPError, httpx.HTTPStatusError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise _refused(str(constants.ENDPOINT), repo, status, error) from error
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise _unreachable(constants.ENDPOINT, error) from error
    except Exception as error:
        # Versions of the hub's client use different HTTP libraries, whose errors have these names in common.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {
            "ConnectError",
            "TransportError",
            "TimeoutException",
            "ConnectionError",
            "Timeout",
            "RequestException",
        }:
            raise _unreachable(constants.ENDPOINT, error) from error
        raise


def _unreachable(endpoint: str, error: Exception) -> LaunchFailed:
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return LaunchFailed(
        f"The hub {endpoint} cannot be reached: {text}",
        remedy="Check the network; HF_ENDPOINT names another hub, download_hub another kind of one, and a model "
        "on this machine needs none. What was downloaded so far is kept.",
    )


def _refused(endpoint: str, repo: str, status: int | None, error: Exception) -> LaunchFailed:
    if status in (401, 403):
        return LaunchFailed(
            f"The hub {endpoint} refuses access to {repo} (status {status}).",
            remedy="Set HF_TOKEN to a token that may read it.",
        )
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return LaunchFailed(
        f"The hub {endpoint} answered for {repo} with status {status}: {text}", remedy="Try again later."
    )


def fetch_modelscope(request: FetchRequest, choose: Choose, report: Report) -> Snapshot:
    """Fetch from ModelScope, with its own client and into its own layout."""
    from modelscope.hub.api import HubApi
    from modelscope.hub.file_download import model_file_download

    revision = request.revision or "master"
    try:
        listed = HubApi().get_model_files(request.repo, revision=revision, recursive=True)
    except Exception as error:
        raise _modelscope_failure(request.repo, error) from error
    sizes: dict[str, int | None] = {
        str(item["Path"]): item.get("Size") for item in listed if item.get("Type", "blob") != "tree"
    }
    folders = {parent for name in sizes for parent in _parents(name)}
    names = tuple(choose({name: size for name, size in sizes.items() if name not in folders}))
    folder: Path | None = None
    for name in names:
        try:
            with _watched(request.folder, partial(report, name)) as watch:
                path = model_file_download(request.repo, name, revision=revision, cache_dir=str(request.folder))
                watch.finish(os.path.getsize(path))
        except Exception as error:
            raise _modelscope_failure(request.repo, error) from error
        folder = Path(str(path)[: -len(name) - 1])
    if folder is None:
        raise LaunchFailed(f"Nothing of {request.repo} was chosen for download.")
    return Snapshot(folder=folder, commit=revision, files=names)


def _parents(name: str) -> list[str]:
    """Return the folders above a file; newer versions of ModelScope's client list them without saying what they are."""
    steps = name.split("/")
    return ["/".join(steps[:count]) for count in range(1, len(steps))]


def _modelscope_failure(repo: str, error: Exception) -> LaunchFailed:
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    text = (str(error) or type(error).__name__).splitlines()[0][:300]
    return LaunchFailed(
        f"ModelScope did not give {repo}: {text}",
        remedy="Check the name and the network; another hub is chosen with download_hub.",
    )


class _watched:
    """Tell how a folder grows while somebody else writes into it."""

    def __init__(self, folder: Path, report: Callable[[int], None]) -> None:
        self._folder = folder
        self._report = report
        self._told = 0
        self._stop = threading.Event()
        self._start = folder_bytes(folder)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def finish(self, size: int) -> None:
        """Tell the rest, once the size is known."""
        self._stop.set()
        self._thread.join()
        self._tell(size)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._tell(folder_bytes(self._folder) - self._start)

    def _tell(self, total: int) -> None:
        if total > self._told or self._stop.is_set():
            self._report(total - self._told)
            self._told = total


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; links count as what they are."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
