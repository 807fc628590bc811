"""Seconds by stage: what belongs to which, and that they add up to the picture."""

import time

import torch

import reference_impl
from bagel.pipeline import BagelPipeline, ImageRequest
from bagel.probe import Probe, Site
from benchmarks.harness import stages
from benchmarks.harness.environment import repository_root

NOTHING = torch.empty(0)


def test_a_stage_ends_where_the_next_one_begins() -> None:
    watch = stages.Watch(lambda: None)
    for phase, op in (("text", "q"), ("text", "k"), ("context", "k"), ("denoise", "q"), ("denoise", "velocity")):
        time.sleep(0.002)
        watch(Site(phase, op), NOTHING)
    assert list(watch.end()) == ["preparing", "context: text", "denoising", "autoencoder, decoding"]
    assert watch.seconds["context: text"] > 0.005


def test_the_device_is_waited_for_where_a_stage_ends() -> None:
    waited: list[int] = []
    watch = stages.Watch(lambda: waited.append(1))
    for op in ("q", "k", "velocity"):
        watch(Site("denoise", op), NOTHING)
    watch.end()
    assert len(waited) == 3


def test_a_stage_of_later_pictures_is_a_stage() -> None:
    asked = iter([["text"], ["vit", "text"], ["vit", "text"]])  # a picture is seen only the second time

    def generate(probe: Probe) -> None:
        for phase in (*next(asked), "denoise"):
            probe.at(phase=phase)("k", NOTHING)

    assert {"context: picture as seen", "context: text"} <= set(stages.of_picture(generate, "cpu"))


def test_what_most_pictures_lack_took_no_time() -> None:
    assert stages.medians([{"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0}]) == {"a": 2.0, "b": 0.0}


def test_stages_of_a_picture_add_up_to_it(one_thread: None) -> None:
    folder = repository_root() / "tests/data/bagel_oracle/checkpoint"
    pipeline = BagelPipeline.from_checkpoint(folder, reference_impl.OPS)
    request = ImageRequest("a red cat", height=32, width=32, steps=3)
    taken: list[float] = []

    def generate(probe: object) -> None:
        start = time.perf_counter()
        pipeline.generate(request, probe)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)

    found = stages.of_picture(generate, "cpu")
    assert list(found) == ["preparing", "context: text", "denoising", "autoencoder, decoding"]
    assert 0 < sum(found.values()) <= 2 * max(taken)
