from gateway_rig import CHAT, Rig, request_bytes, wait_for
from modelrack.server import metrics as module
from modelrack.server.metrics import Metrics, WorkerSample


async def test_what_requests_leave_behind(rig: Rig) -> None:
    worker = rig.add("m")
    async with rig.client() as client:
        for body in ({"do": "echo"}, {"do": "stream", "events": 4}, {"do": "refuse"}):
            await client.post(CHAT, json={"model": "m", **body})
        for number in range(20):
            await client.post(CHAT, json={"model": f"unknown-{number}"})
            await client.get(f"/v1/nothing/{number}")
            await client.get(f"/v1/numbers/{number}")
    with rig.connect() as connection:
        connection.sendall(request_bytes({"model": "m", "do": "hang"}))
        wait_for(lambda: worker.state()["requests"] == 4)
        content, media_type = rig.metrics.render()
    assert media_type.startswith("text/plain")
    text = content.decode()
    labels = f'model="m",path="{CHAT}"'
    for line in (
        f'modelrack_requests_total{{{labels},status="200"}} 2.0',
        f'modelrack_requests_total{{{labels},status="400"}} 1.0',
        f'modelrack_requests_total{{model="",path="{CHAT}",status="404"}} 20.0',
        'modelrack_requests_total{model="",path="other",status="404"} 20.0',
        'modelrack_requests_total{model="",path="/v1/numbers/{number}",status="200"} 20.0',
        f"modelrack_requests_in_flight{{{labels}}} 1.0",
        f"modelrack_request_duration_seconds_count{{{labels}}} 3.0",
        f'modelrack_request_duration_seconds_bucket{{le="300.0",{labels}}} 3.0',
        f"modelrack_time_to_first_byte_seconds_count{{{labels}}} 3.0",
        'modelrack_tokens_total{kind="prompt",model="m"} 10.0',
        'modelrack_tokens_total{kind="completion",model="m"} 9.0',
    ):
        assert line in text.splitlines(), line
    assert "unknown-" not in text
    assert "process_resident_memory_bytes" in text


def test_gauges_of_workers_are_read_at_the_time() -> None:
    memory = 1.0
    metrics = Metrics(lambda: [WorkerSample("m", 0, {"memory_bytes": memory}), WorkerSample("m", 1, {"ready": 1})])
    metrics.render()
    memory = 7.0
    text = metrics.render()[0].decode()
    assert 'modelrack_worker_memory_bytes{model="m",replica="0"} 7.0' in text
    assert 'modelrack_worker_ready{model="m",replica="1"} 1.0' in text


def test_names_from_users_do_not_grow_without_bound() -> None:
    metrics = Metrics()
    for number in range(module.SERIES_LIMIT + 100):
        metrics.series(f"m-{number}", CHAT).observe(200, 0.01)
    assert len(metrics._series) == module.SERIES_LIMIT + 1
    assert metrics.series("other", "other").statuses == {200: 100}


def test_times_fall_into_the_right_buckets() -> None:
    metrics = Metrics()
    for duration in (0.005, 0.0051, 1000.0):
        metrics.series("m", CHAT).observe(200, duration, duration)
    lines = metrics.render()[0].decode().splitlines()
    for bound, count in (("0.005", 1.0), ("0.01", 2.0), ("300.0", 2.0), ("+Inf", 3.0)):
        assert f'modelrack_request_duration_seconds_bucket{{le="{bound}",model="m",path="{CHAT}"}} {count}' in lines
