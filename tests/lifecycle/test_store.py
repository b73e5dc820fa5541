"""The store keeps what was wished and what was started."""

import sqlite3
import threading
from pathlib import Path

import pytest

from modelrack.lifecycle.store import EVENTS_KEPT, MEASURED_KEPT, InstanceRecord, Store, StoreFailed, WorkerRecord


def instance(uid: str, created: float = 1.0) -> InstanceRecord:
    return InstanceRecord(model_uid=uid, request={"model_name": "é", "n": None}, replicas=(0, 2), created_ts=created)


def worker(incarnation: str) -> WorkerRecord:
    return WorkerRecord(incarnation=incarnation, model_uid="a", replica_id=0, socket="s", log="l", job="j")


def test_records_come_back_from_another_connection(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    store.put_instance(instance("b", 2.0))
    store.put_instance(instance("a", 1.0))
    store.put_worker(worker("x"))
    store.put_worker(WorkerRecord(incarnation="x", model_uid="a", replica_id=0, socket="s", log="l", job="j", pid=7))
    other = Store(path)
    assert [record.model_uid for record in other.instances()] == ["a", "b"]
    assert other.instances()[0] == instance("a", 1.0)
    assert [record.pid for record in other.workers()] == [7]
    store.close()
    other.close()


def test_wishes_change(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.put_instance(instance("a"))
    store.mark_ready("a")
    store.set_replicas("a", (2,))
    store.set_unwanted("a")
    (record,) = store.instances()
    assert (record.was_ready, record.replicas, record.is_wanted) == (True, (2,), False)
    store.remove_instance("a")
    store.remove_worker("never there")
    assert store.instances() == [] and store.workers() == []
    store.close()


def test_the_last_events_are_kept_for_each_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.add_event("other", "ready", "")
    for number in range(EVENTS_KEPT + 5):
        store.add_event("a", "ready", str(number))
    events = store.events("a")
    assert len(events) == EVENTS_KEPT
    assert events[0][2] == "5" and events[-1][2] == str(EVENTS_KEPT + 4)
    assert len(store.events("other")) == 1
    store.close()


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreFailed, match="another version of modelrack"):
        Store(path)


def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database " * 500)
    with pytest.raises(StoreFailed, match="cannot be used") as failure:
        Store(path)
    assert failure.value.remedy and "move it away" in failure.value.remedy


def test_a_record_that_cannot_be_understood_costs_only_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.put_instance(instance("good"))
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("INSERT INTO instance VALUES ('bad', '{', '[0]', 1, 0, 0.0)")
    assert [record.model_uid for record in store.instances()] == ["good"]
    db.close()
    store.close()


def test_on_a_full_disk_wishes_fail_and_notes_are_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "state.db")
    store.put_instance(instance("a"))
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # the same error as that of a full disk
    large = InstanceRecord(model_uid="b", request={"model_name": "x" * 100_000}, replicas=(0,))
    with pytest.raises(StoreFailed, match="full"):
        store.put_instance(large)
    for number in range(300):
        store.add_event("a", "ready", "x" * 1000)
        store.put_worker(worker(str(number)))
    assert "full" in caplog.text
    store.mark_ready("a")
    assert [record.was_ready for record in store.instances()] == [True]
    store.close()


def test_the_newest_measurement_counts_from_any_thread(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    assert store.measured("a") is None
    store.put_measured("a", 10, 0, None)
    store.put_measured("a", 20, 5, 7)
    found = []
    thread = threading.Thread(target=lambda: found.append(store.measured("a")))
    thread.start()
    thread.join()
    (measured,) = found
    assert measured is not None
    assert (measured.host_bytes, measured.device_bytes, measured.estimated_bytes) == (20, 5, 7)
    store.close()


def test_old_measurements_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    for number in range(MEASURED_KEPT + 3):
        store.put_measured(str(number), number, 0, None)
    assert store.measured("0") is None and store.measured(str(MEASURED_KEPT + 2)) is not None
    store.close()
