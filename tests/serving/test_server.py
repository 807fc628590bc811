"""`motbench serve` in a process of its own answers what the API says, and nothing that it is sent ends it."""

import base64
import contextlib
import io
import json
import subprocess
import sys

import httpx2
import pytest
from PIL import Image

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


def png(width: int = 64, height: int = 64, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(content, format=kind)
    return content.getvalue()


def ask(server: str, **fields) -> httpx2.Response:
    return httpx2.post(server + GENERATIONS, json={"prompt": "a red circle"} | fields, timeout=60)


def edit(server: str, image: bytes, name: str = "a.png", field: str = "image", **fields) -> httpx2.Response:
    data = {"prompt": "make it blue", "num_inference_steps": "2"} | fields
    return httpx2.post(server + EDITS, data=data, files={field: (name, image)}, timeout=60)


def picture(response: httpx2.Response, index: int = 0) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(response.json()["data"][index]["b64_json"])))
    image.load()
    return image


def test_a_picture_has_the_size_asked_for_width_first(server):
    assert picture(ask(server, size="64x32")).size == (64, 32)


def test_the_same_seed_makes_the_same_picture(server):
    assert picture(ask(server, seed=7)).tobytes() == picture(ask(server, seed=7)).tobytes()


def test_n_pictures_have_seeds_that_count_up(server):
    both = ask(server, seed=7, n=2)
    assert [data["seed"] for data in both.json()["data"]] == [7, 8]
    assert picture(both, 1).tobytes() == picture(ask(server, seed=8)).tobytes()


def test_random_weights_serve_pictures_under_a_name_that_says_so(random_server):
    assert picture(ask(random_server)).size == (64, 64)
    assert httpx2.get(random_server + "/health").json()["model"] == "random-twin"


def test_health_tells_the_kind_of_the_experts(server, random_server):
    assert [httpx2.get(url + "/health").json()["kind"] for url in (server, random_server)] == ["dense", "int8"]


@pytest.mark.parametrize("weights", [[], ["--checkpoint", "a", "--random-weights", "twin"]], ids=["neither", "both"])
def test_a_server_wants_one_source_of_weights(weights):
    command = [sys.executable, "-P", "-m", "motbench", "serve", *weights, "--impl", "reference", "--device", "cpu"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2
    assert "give one of the two" in refused.stderr


def test_more_steps_make_another_picture(server):
    assert picture(ask(server, seed=7)).tobytes() != picture(ask(server, seed=7, num_inference_steps=6)).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_edit_takes(server, kind):
    response = edit(server, png(kind=kind), seed="1")
    assert response.status_code == 200, response.text
    assert picture(response).mode == "RGB"


REFUSED = {
    "a_size_that_is_no_size": (400, {"size": "big"}),
    "a_size_beyond_the_limit": (400, {"size": "128x64"}),
    "a_size_off_the_grid": (400, {"size": "60x64"}),
    "no_pixels": (400, {"size": "0x64"}),
    "one_step": (400, {"num_inference_steps": 1}),
    "too_many_steps": (400, {"num_inference_steps": 9}),
    "steps_as_a_boolean": (400, {"num_inference_steps": True}),
    "too_many_pictures": (400, {"n": 100}),
    "a_negative_seed": (400, {"seed": -1}),
    "a_long_prompt": (400, {"prompt": "a" * 5000}),
    "a_prompt_that_is_no_text": (400, {"prompt": ["a"]}),
    "half_a_surrogate_pair": (400, {"prompt": "\ud800"}),
    "a_guidance_out_of_range": (400, {"guidance_scale": 1e9}),
    "a_field_unknown_here": (400, {"mystery": 1}),
    "a_quality_not_served": (400, {"quality": "hd"}),
    "an_url_as_the_answer": (400, {"response_format": "url"}),
    "a_path_as_the_model": (404, {"model": "../../etc/passwd"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_generation(server, name):
    status, fields = REFUSED[name]
    response = httpx2.post(server + GENERATIONS, content=json.dumps({"prompt": "a"} | fields), timeout=60)
    assert response.status_code == status
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"prompt": "a", "seed": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(server, body):
    assert httpx2.post(server + GENERATIONS, content=body, timeout=60).status_code == 400


def test_a_huge_body_is_refused_by_what_comes_not_by_what_its_head_says(server):
    chunks = (b" " * 2**20 for _ in range(20))
    with contextlib.suppress(httpx2.WriteError, httpx2.ReadError):  # closed while this side was still sending
        assert httpx2.post(server + GENERATIONS, content=chunks, timeout=60).status_code == 413
    assert httpx2.get(server + "/health", timeout=60).status_code == 200


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a\\b.png", ".."])
def test_a_path_as_the_file_name_is_refused(server, name):
    assert "holds a path" in edit(server, png(), name).json()["error"]["message"]


@pytest.mark.parametrize(
    "image",
    [b"", b"no picture", png()[:80], png(65, 64), b"GIF89a" + bytes(100)],
    ids=["empty", "text", "truncated", "too_wide", "gif"],
)
def test_a_file_is_refused_as_the_image(server, image):
    assert edit(server, image).status_code == 400


def test_a_size_for_an_edit_is_refused(server):
    assert edit(server, png(), size="32x32").status_code == 400


def test_a_mask_is_refused_rather_than_ignored(server):
    assert "mask" in edit(server, png(), field="mask").json()["error"]["message"]


def test_an_edit_that_is_no_form_is_refused(server):
    assert httpx2.post(server + EDITS, json={"prompt": "a"}, timeout=60).status_code == 415


def test_an_unknown_route_has_the_apis_error_shape(server):
    response = httpx2.get(server + "/v1/nothing", timeout=60)
    assert (response.status_code, response.json()["error"]["message"]) == (404, "Not Found")


def test_health_tells_the_commit_and_the_implementation(server):
    told = httpx2.get(server + "/health", timeout=60).json()
    assert (told["status"], told["impl"], len(told["provenance"]["commit"])) == ("ok", "reference", 40)


def test_metrics_count_answers_by_status(server):
    def refused() -> float:
        page = httpx2.get(server + "/metrics", timeout=60).text
        lines = [line for line in page.splitlines() if line.startswith("motbench_responses_total")]
        return sum(float(line.split()[-1]) for line in lines if 'status="404"' in line)

    before = refused()
    ask(server, model="another")
    assert refused() == before + 1
