"""The line before the one worker: bounded, in order, and not lengthened by who has left."""

import asyncio
import threading

import pytest

from serving.engine import Engine
from serving.wishes import RefusedError


def held(order: list[int]) -> tuple[threading.Event, Engine]:
    """An engine of a line of 2 whose work waits for the event."""
    gate = threading.Event()

    def make(request):
        gate.wait(5)
        order.append(request)
        return request

    return gate, Engine(make, 2)


async def _fill(engine: Engine) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(engine([i])) for i in range(2)]
    await asyncio.sleep(0.05)
    return tasks


def test_a_full_line_refuses_with_429():
    async def run():
        gate, engine = held([])
        tasks = await _fill(engine)
        with pytest.raises(RefusedError, match="the line holds 2") as refused:
            await engine([3])
        gate.set()
        await asyncio.gather(*tasks)
        return refused.value.status

    assert asyncio.run(run()) == 429


def test_requests_are_answered_in_the_order_they_came():
    order: list[int] = []

    async def run():
        gate, engine = held(order)
        tasks = await _fill(engine)
        gate.set()
        return [made.pictures for made in await asyncio.gather(*tasks)]

    assert asyncio.run(run()) == [[0], [1]]
    assert order == [0, 1]


def test_the_line_is_free_again_after_an_answer():
    async def run():
        gate, engine = held([])
        tasks = await _fill(engine)
        gate.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        return engine.waiting

    assert asyncio.run(run()) == 0


def test_a_client_that_left_while_waiting_costs_no_work():
    order: list[int] = []

    async def run():
        gate, engine = held(order)
        tasks = await _fill(engine)
        tasks[1].cancel()
        await asyncio.sleep(0.05)
        assert engine.waiting == 1
        gate.set()
        await tasks[0]

    asyncio.run(run())
    assert order == [0]


def test_a_failure_leaves_the_worker_alive():
    def make(request):
        if request == "bad":
            raise MemoryError
        return request

    async def run():
        engine = Engine(make, 2)
        with pytest.raises(MemoryError):
            await engine(["bad"])
        return (await engine(["good"])).pictures

    assert asyncio.run(run()) == ["good"]


def test_a_closed_engine_refuses_with_503():
    async def run():
        engine = Engine(lambda request: request, 2)
        engine.close()
        with pytest.raises(RefusedError) as refused:
            await engine(["late"])
        return refused.value.status

    assert asyncio.run(run()) == 503


def test_a_line_of_nobody_is_refused():
    with pytest.raises(ValueError, match="must hold at least 1"):
        Engine(lambda request: request, 0)
