"""The load generator counts every kind of failure, spaces arrivals as asked, and never measures a cold server."""

import asyncio

import numpy as np
import pytest

from serving.figures import spread, summary
from serving.load import Answer, Asked, Load, _arrivals, run, warm_up


def sent(url: str, prompts: list[str], save=lambda *_: None, **options) -> list[Answer]:
    load = Load(url, options.pop("concurrency", 4), **options)
    return asyncio.run(run(load, [Asked(prompt) for prompt in prompts], save, lambda _: None))


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("good", ""),
        ("refused", "refused"),
        ("failed", "failed"),
        ("malformed", "malformed"),
        ("no json", "malformed"),
        ("no base64", "malformed"),
        ("truncated", "undecodable"),
    ],
)
def test_an_answer_is_counted_as(bad_server, prompt, kind):
    assert sent(bad_server, [prompt])[0].kind == kind


def test_a_slow_answer_is_a_timeout(bad_server):
    assert sent(bad_server, ["slow"], timeout=0.2)[0].kind == "timeout"


def test_a_server_that_is_not_there_is_a_connection_failure():
    assert sent("http://127.0.0.1:9", ["good"])[0].kind == "connection"


def test_a_picture_that_cannot_be_kept_is_a_failure(bad_server):
    def full(index, content):
        raise OSError(28, "No space left on device")

    assert sent(bad_server, ["good"], full)[0].kind == "unsaved"


def test_a_refusal_keeps_the_servers_reason(bad_server):
    assert sent(bad_server, ["refused"])[0].failure == "status 400: too large"


def test_one_bad_answer_does_not_end_the_run(bad_server):
    kinds = [answer.kind for answer in sent(bad_server, ["good", "failed", "good"])]
    assert kinds == ["", "failed", ""]


def test_no_more_than_concurrency_requests_are_under_way(bad_server):
    answers = sent(bad_server, ["good"] * 12, concurrency=3)
    events = sorted([(a.sent, 1) for a in answers] + [(a.done, -1) for a in answers])
    assert max(np.cumsum([change for _, change in events])) <= 3


def test_waiting_for_a_slot_counts_as_latency_at_a_rate(bad_server):
    answers = sent(bad_server, ["slow", "good"], concurrency=1, request_rate=1000.0)
    assert answers[1].sent - answers[1].due > 1


def test_arrivals_have_the_rate_asked_for():
    arrivals = _arrivals(Load("http://x", 1, request_rate=4.0), 20_000)
    assert np.diff(arrivals).mean() == pytest.approx(0.25, rel=0.03)


def test_arrivals_are_those_of_the_seed():
    load = Load("http://x", 1, request_rate=4.0, seed=3)
    assert (_arrivals(load, 10) == _arrivals(load, 10)).all()


@pytest.mark.parametrize("steps", [0, 1])
def test_a_warm_up_that_computes_nothing_is_refused(steps):
    with pytest.raises(ValueError, match="needs at least 2"):
        asyncio.run(warm_up(Load("http://x", 1), Asked("a"), steps))


def test_a_warm_up_without_a_picture_is_an_error(bad_server):
    with pytest.raises(OSError, match="brought no picture: status 400"):
        asyncio.run(warm_up(Load(bad_server, 1), Asked("refused"), 2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"concurrency": 1, "request_rate": 0.0}, "request rate is 0"),
        ({"concurrency": 1, "request_rate": float("nan")}, "request rate is nan"),
        ({"concurrency": 1, "timeout": 0.0}, "timeout is 0"),
    ],
)
def test_a_load_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Load("http://x", **options)


def test_a_p99_of_99_samples_is_not_measured():
    assert spread([1.0] * 99)["p99"] is None


def test_a_p99_of_100_samples_is_measured():
    assert spread([1.0] * 100)["p99"] == 1.0


def test_throughput_counts_pictures_only():
    answers = [Answer(0, 0, 0, 2.0), Answer(1, 0, 0, 4.0, kind="failed")]
    assert summary(answers)["pictures_per_second"] == 0.25


def test_figures_of_no_picture_are_not_measured():
    found = summary([Answer(0, 0, 0, 2.0, kind="failed")])
    assert (found["pictures_per_second"], found["latency_seconds"]["median"]) == (None, None)
