"""The desired state and what is known of the workers, in one SQLite file."""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelrackError

__all__ = ["EVENTS_KEPT", "InstanceRecord", "Measured", "Store", "StoreFailed", "WorkerRecord"]

log = logging.getLogger(__name__)

EVENTS_KEPT = 100
"""Events kept for each model uid."""

EVENTS_KEPT_IN_ALL = 10_000
"""Events kept of all models: uids come and go without end."""

MEASURED_KEPT = 1000
"""Figures of memory that are kept; the oldest go first."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instance (
    model_uid TEXT PRIMARY KEY, request TEXT NOT NULL, replicas TEXT NOT NULL, is_wanted INTEGER NOT NULL,
    was_ready INTEGER NOT NULL, created_ts REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS worker (
    incarnation TEXT PRIMARY KEY, model_uid TEXT NOT NULL, replica_id INTEGER NOT NULL, pid INTEGER,
    pid_created REAL, socket TEXT NOT NULL, log TEXT NOT NULL, job TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY, model_uid TEXT NOT NULL, ts REAL NOT NULL, type TEXT NOT NULL, content TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS event_model_uid ON event (model_uid, id);
CREATE TABLE IF NOT EXISTS measured (
    key TEXT PRIMARY KEY, host_bytes INTEGER NOT NULL, device_bytes INTEGER NOT NULL, estimated_bytes INTEGER,
    ts REAL NOT NULL
) STRICT;
"""

_VERSION = 1


class StoreFailed(ModelrackError):
    """The store cannot be read or written."""

    code = "store_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """An instance that somebody wants.

    Args:
        request: the launch request, JSON-ready.
        replicas: ids of the replicas wanted.
        was_ready: it has answered at least once; a start that fails is then tried again.
    """

    model_uid: str
    request: dict[str, Any]
    replicas: tuple[int, ...]
    is_wanted: bool = True
    was_ready: bool = False
    created_ts: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker that was started and not yet seen to end. `pid` is None until it is known."""

    incarnation: str
    model_uid: str
    replica_id: int
    socket: str
    log: str
    job: str
    pid: int | None = None
    pid_created: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a replica took when it had become ready, in bytes.

    Args:
        host_bytes: resident memory of all of its processes.
        device_bytes: memory of accelerators that its processes held; 0 if it has none, or it cannot be told.
        estimated_bytes: what was expected beforehand, in all; None if nothing was.
        ts: when, in seconds since 1970.
    """

    host_bytes: int
    device_bytes: int
    estimated_bytes: int | None = None
    ts: float = 0.0


class Store:
    """Keep the records; every call is one short transaction, on disk when it returns.

    A wish (`put_instance`, `set_replicas`, `set_unwanted`) that cannot be written is StoreFailed, and so is what cannot
    be read. Notes about what happened are only logged then: a full disk must not take a running model along, and a
    record that is missing or left over is noticed at the next start. Calls may come from any thread.

    Raises: StoreFailed: the file cannot be opened, is damaged, or another version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise StoreFailed(
                    f"{path} was written by another version of modelrack (schema {version}, not {_VERSION}).",
                    remedy="Use that version, or another home folder (modelrack serve --home DIR).",
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.Error as error:
            raise StoreFailed(
                f"{path} cannot be used: {error}.",
                remedy="If it is damaged, move it away; the models that it names must then be launched again.",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _execute(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(
                f"{self._path} cannot be used: {error}.", remedy="See that its disk has space and can be written to."
            ) from error

    def _note(self, statement: str, values: Sequence[object]) -> None:
        try:
            self._execute(statement, values)
        except StoreFailed as error:
            log.error("not noted: %s", error.message)

    def put_instance(self, record: InstanceRecord) -> None:
        """Add an instance, or replace the one of this uid."""
        values = (
            record.model_uid,
            json.dumps(record.request),
            json.dumps(record.replicas),
            record.is_wanted,
            record.was_ready,
            record.created_ts,
        )
        self._execute("INSERT OR REPLACE INTO instance VALUES (?, ?, ?, ?, ?, ?)", values)

    def instances(self) -> list[InstanceRecord]:
        """Return all instances, oldest first; one that cannot be understood is logged and left out."""
        rows = self._execute(
            "SELECT model_uid, request, replicas, is_wanted, was_ready, created_ts FROM instance ORDER BY created_ts"
        )
        records = []
        for uid, request, replicas, wanted, ready, created in rows:
            try:
                record = InstanceRecord(
                    model_uid=uid,
                    request=json.loads(request),
                    replicas=tuple(json.loads(replicas)),
                    is_wanted=bool(wanted),
                    was_ready=bool(ready),
                    created_ts=created,
                )
            except (ValueError, TypeError) as error:
                log.error("%s: the record of '%s' cannot be understood: %s", self._path, uid, error)
            else:
                records.append(record)
        return records

    def mark_ready(self, model_uid: str) -> None:
        """Keep that the instance has been ready."""
        self._note("UPDATE instance SET was_ready = 1 WHERE model_uid = ?", (model_uid,))

    def set_replicas(self, model_uid: str, replicas: tuple[int, ...]) -> None:
        """Set which replicas are wanted."""
        self._execute("UPDATE instance SET replicas = ? WHERE model_uid = ?", (json.dumps(replicas), model_uid))

    def set_unwanted(self, model_uid: str) -> None:
        """Keep that the instance is to end."""
        self._execute("UPDATE instance SET is_wanted = 0 WHERE model_uid = ?", (model_uid,))

    def remove_instance(self, model_uid: str) -> None:
        """Forget an instance; its events stay."""
        self._note("DELETE FROM instance WHERE model_uid = ?", (model_uid,))

    def put_worker(self, record: WorkerRecord) -> None:
        """Add a worker, or replace the one of this incarnation."""
        values = (
            record.incarnation,
            record.model_uid,
            record.replica_id,
            record.pid,
            record.pid_created,
            record.socket,
            record.log,
            record.job,
        )
        self._note("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def remove_worker(self, incarnation: str) -> None:
        """Forget a worker, once it is seen to have ended."""
        self._note("DELETE FROM worker WHERE incarnation = ?", (incarnation,))

    def workers(self) -> list[WorkerRecord]:
        """Return the workers that may still be running."""
        rows = self._execute(
            "SELECT incarnation, model_uid, replica_id, pid, pid_created, socket, log, job FROM worker"
        )
        names = ("incarnation", "model_uid", "replica_id", "pid", "pid_created", "socket", "log", "job")
        return [WorkerRecord(**dict(zip(names, row, strict=True))) for row in rows]

    def add_event(self, model_uid: str, kind: str, content: str) -> None:
        """Add an event, and drop the oldest beyond what is kept."""
        try:
            with self._transaction() as db:
                db.execute(
                    "INSERT INTO event (model_uid, ts, type, content) VALUES (?, ?, ?, ?)",
                    (model_uid, time.time(), kind, content),
                )
                db.execute(
                    "DELETE FROM event WHERE model_uid = ?1 AND id NOT IN "
                    "(SELECT id FROM event WHERE model_uid = ?1 ORDER BY id DESC LIMIT ?2)",
                    (model_uid, EVENTS_KEPT),
                )
                db.execute("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", (EVENTS_KEPT_IN_ALL,))
        except sqlite3.Error as error:
            log.error("not noted: %s: %s %s: %s", self._path, model_uid, kind, error)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def events(self, model_uid: str) -> list[tuple[float, str, str]]:
        """Return (time, type, content) of the events kept, oldest first."""
        rows = self._execute("SELECT ts, type, content FROM event WHERE model_uid = ? ORDER BY id", (model_uid,))
        return [(ts, kind, content) for ts, kind, content in rows]

    def put_measured(self, key: str, host_bytes: int, device_bytes: int, estimated_bytes: int | None) -> None:
        """Keep what a replica took; the newest figures of a key count."""
        values = (key, host_bytes, device_bytes, estimated_bytes, time.time())
        self._note("INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?, ?)", values)
        self._note(
            "DELETE FROM measured WHERE key NOT IN (SELECT key FROM measured ORDER BY ts DESC LIMIT ?)",
            (MEASURED_KEPT,),
        )

    def measured(self, key: str) -> Measured | None:
        """Return what was measured under a key, or None."""
        rows = self._execute("SELECT host_bytes, device_bytes, estimated_bytes, ts FROM measured WHERE key = ?", (key,))
        for host, device, estimated, ts in rows:
            return Measured(host_bytes=host, device_bytes=device, estimated_bytes=estimated, ts=ts)
        return None
