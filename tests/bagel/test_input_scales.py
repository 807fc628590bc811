"""Fixed scales of the inputs of fp8 layers: what calibration sees, writes and tells; what a checkpoint must hold."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import reference_impl
from bagel.calibrate import Calibration, Place, calibrate, watched
from bagel.experts import input_scale_name, is_linear, place_of
from bagel.layers import MoTLayer
from bagel.pipeline import BagelPipeline, ImageRequest
from bagel.quantise import quantise_checkpoint
from motbench.quantise import read_requests
from reference_impl.contract import FP8, FP8_MAX, IMAGE, TEXT, Experts, QuantisedRows, Route, Rows
from reference_impl.parallel import Parallel

LAYER = "language_model.model.layers.1."
O_PROJ, O_PROJ_IMAGE = (f"{LAYER}self_attn.o_proj{s}.input_scale" for s in ("", "_moe_gen"))
K_PROJ = f"{LAYER}self_attn.k_proj.input_scale"
REQUESTS = [
    ImageRequest(prompt, height=64, width=64, steps=4, seed=i) for i, prompt in enumerate(("a red cube", "two"))
]
NAMES = ("qkv", "o", "gate_up", "down")


@pytest.fixture(scope="module")
def calibration(pipeline: BagelPipeline) -> Calibration:
    return calibrate(pipeline, REQUESTS, margin=1.0)


@pytest.fixture(scope="module")
def written(oracle: Path, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fixed") / "fp8"
    quantise_checkpoint(oracle / "checkpoint", out, "fp8", calibration=calibration)
    return out


def load(folder: Path, parallel: Parallel | None = None) -> BagelPipeline:
    return BagelPipeline.from_checkpoint(folder, reference_impl.OPS, parallel=parallel or Parallel())


def with_transformer(pipeline: BagelPipeline, **changes: object) -> BagelPipeline:
    transformer = dataclasses.replace(pipeline.model.transformer, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(pipeline, model=dataclasses.replace(pipeline.model, transformer=transformer))


def inputs(pipeline: BagelPipeline, request: ImageRequest) -> dict[tuple[Place, int], list[Tensor]]:
    """Everything that linear layers get, by layer and expert."""
    found: dict[tuple[Place, int], list[Tensor]] = {}
    watched(pipeline, lambda place, expert, x: found.setdefault((place, expert), []).append(x)).generate(request)
    return found


def experts(layer: MoTLayer) -> dict[str, Experts]:
    return {name: getattr(layer, name) for name in NAMES}


# What calibration sees.


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        (f"{LAYER}self_attn.k_proj_moe_gen.weight", (1, "qkv", IMAGE)),
        (f"{LAYER}mlp.up_proj.weight", (1, "gate_up", TEXT)),
        (f"{LAYER}mlp_moe_gen.down_proj.weight", (1, "down", IMAGE)),
    ],
    ids=["k", "up", "down"],
)
def test_a_published_weight_has_its_place(weight: str, place: tuple[int, str, int]) -> None:
    assert place_of(weight) == place


def test_who_watches_changes_nothing(pipeline: BagelPipeline) -> None:
    seen = watched(pipeline, lambda *_: None).generate(REQUESTS[0])
    assert torch.equal(seen.final_latents, pipeline.generate(REQUESTS[0]).final_latents)


def test_every_layer_shows_both_experts_inputs(pipeline: BagelPipeline) -> None:
    found = inputs(pipeline, REQUESTS[0])
    for (index, name), expert in found:
        layer = experts(pipeline.model.transformer.layers[index])[name]
        assert {x.shape[1] for x in found[(index, name), expert]} == {layer.n_in}
    assert len(found) == 2 * 4 * 2


def test_the_input_of_down_is_what_lies_between(pipeline: BagelPipeline) -> None:
    found, layer = inputs(pipeline, REQUESTS[0]), pipeline.model.transformer.layers[1]
    x = found[(1, "gate_up"), TEXT][0]
    between = reference_impl.OPS.gated_linear(x, layer.gate_up, Route.all_text(len(x)))
    assert torch.allclose(found[(1, "down"), TEXT][0], between, rtol=1e-5, atol=1e-6)


def test_a_maximum_is_of_all_requests_but_the_last(pipeline: BagelPipeline) -> None:
    three = [*REQUESTS, dataclasses.replace(REQUESTS[0], prompt="0" * 40)]
    maxima = calibrate(pipeline, three, margin=1.0).maxima
    each = [inputs(pipeline, request) for request in three[:2]]
    for (place, expert), first in each[0].items():
        assert maxima[place][expert] == max(float(x.abs().max()) for x in [*first, *each[1][place, expert]])


def test_a_scale_reaches_the_maximum_times_the_margin(calibration: Calibration) -> None:
    wider, maxima = dataclasses.replace(calibration, margin=4.0).scales, calibration.maxima
    assert wider[1, "down"] == pytest.approx([4 * maximum / 448 for maximum in maxima[1, "down"]])


def test_what_the_held_out_request_has_beyond_is_counted(pipeline: BagelPipeline, calibration: Calibration) -> None:
    found = inputs(pipeline, REQUESTS[1])
    for place, pair in calibration.clamped.items():
        for expert, counted in enumerate(pair):
            values = torch.cat(found[place, expert]).abs()
            assert counted.values == values.numel()
            assert counted.beyond == int((values > calibration.maxima[place][expert]).sum())
    assert calibration.clamped_in_all.beyond > 0


def test_nothing_is_beyond_for_a_request_that_raised_the_maxima(pipeline: BagelPipeline) -> None:
    assert calibrate(pipeline, [REQUESTS[0]] * 2, margin=1.0).clamped_in_all.beyond == 0


def test_errors_are_those_of_the_written_checkpoint(
    calibration: Calibration, written: Path, pipeline: BagelPipeline
) -> None:
    truth, made = (one.generate(REQUESTS[1]).final_latents for one in (pipeline, load(written)))
    assert calibration.fixed == pytest.approx(float((made - truth).norm() / truth.norm()))
    assert calibration.own != calibration.fixed


# What is written and read.


def test_modules_of_a_layer_share_the_scale_of_their_expert(written: Path, calibration: Calibration) -> None:
    stored = load_file(written / "ema.safetensors")
    linear = [name for name in stored if is_linear(name)]
    assert len(linear) == 28
    for name in linear:
        index, layer, expert = place_of(name)
        scale = stored[input_scale_name(name)]
        assert (scale.shape, scale.dtype) == ((), torch.float32)
        assert float(scale) == pytest.approx(calibration.scales[index, layer][expert], rel=1e-7)


@pytest.mark.parametrize("parallel", [Parallel(), Parallel(0, 2), Parallel(1, 2)], ids=["alone", "0 of 2", "1 of 2"])
def test_every_rank_has_the_scales_of_both_experts(parallel: Parallel, written: Path, calibration: Calibration) -> None:
    for i, layer in enumerate(load(written, parallel).model.transformer.layers):
        for name, one in experts(layer).items():
            assert one.input_scale is not None
            assert one.input_scale.tolist() == pytest.approx(calibration.scales[i, name], rel=1e-7)


def test_layers_without_fixed_scales_keep_a_scale_for_each_row(written: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "fp8"))
    changed(folder, lambda t: [t.pop(name) for name in (O_PROJ, O_PROJ_IMAGE)])
    layer = load(folder).model.transformer.layers[1]
    assert [name for name, one in experts(layer).items() if one.input_scale is None] == ["o"]


def test_the_manifest_says_what_was_asked_and_seen(written: Path, calibration: Calibration) -> None:
    found = json.loads((written / "quantisation.json").read_text())["calibration"]
    asked = {"prompt": "a red cube", "image": None, "height": 64, "width": 64, "steps": 4, "seed": 0}
    assert found["requests"] == [asked]
    assert found["held_out"] == asked | {"prompt": "two", "seed": 1}
    assert found["maxima"]["layers.1.o"] == list(calibration.maxima[1, "o"])
    assert (found["made_by"], found["margin"]) == ("reference float32 on cpu", 1.0)
    assert found["held_out_latent_relative_l2"] == {"own_scales": calibration.own, "fixed_scales": calibration.fixed}


# Its arithmetic.


def by_hand(x: Rows, layer: Experts, route: Route) -> Tensor:
    """Codes of each row over its expert's one scale, clamped; their sums times both scales, and the bias."""
    assert layer.input_scale is not None
    assert layer.scale is not None
    y = torch.empty(x.shape[0], layer.n_out)
    for row, expert in [(r, e) for e, rows in enumerate(route.expert_rows) for r in rows.tolist()]:
        fixed = layer.input_scale[expert]
        one = x.values[row] if isinstance(x, QuantisedRows) else (x[row] * (1 / fixed)).clamp(-448, 448).to(FP8)
        total = layer.weight[expert].double() @ one.double() * float(fixed) * layer.scale[expert].double()
        y[row] = total if layer.bias is None else total + layer.bias[expert]
    return y


def mlp_by_hand(x: Rows, gate_up: Experts, down: Experts, route: Route) -> Tensor:
    gate, up = by_hand(x, gate_up, route).chunk(2, 1)
    return by_hand(torch.nn.functional.silu(gate) * up, down, route)


def test_a_picture_is_made_with_the_references_arithmetic(written: Path) -> None:
    pipeline, request = load(written), dataclasses.replace(REQUESTS[1], steps=2)
    ops = dataclasses.replace(reference_impl.OPS, linear=by_hand, gated_mlp=mlp_by_hand)
    expected, found = (one.generate(request).final_latents for one in (with_transformer(pipeline, ops=ops), pipeline))
    # A sum that is rounded otherwise may take the neighbouring code, so not to the last bits.
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_a_value_beyond_the_reach_is_as_good_as_the_last_one_within(written: Path, calibration: Calibration) -> None:
    layer = load(written).model.transformer.layers[0].down
    reach = calibration.scales[0, "down"][TEXT] * FP8_MAX
    x, route = torch.zeros(2, layer.n_in), Route.all_text(2)
    x[0, 3], x[1, 3] = reach, 10 * reach
    within, beyond = reference_impl.OPS.linear(x, layer, route)
    assert torch.equal(within, beyond)
    assert within.abs().max() > 0


# What is refused.


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    path = folder / "ema.safetensors"
    stored = load_file(path)
    change(stored)
    save_file(stored, path)
    return folder


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "one-expert": (lambda t: t.pop(O_PROJ_IMAGE), f"1 missing: {O_PROJ_IMAGE}"),
    "one-module": (lambda t: t.pop(K_PROJ), f"1 missing: {K_PROJ}"),
    "two-scales": (lambda t: t[K_PROJ].fill_(0.5), f"but {K_PROJ} is 0.5 .* must agree"),
    "zero": (lambda t: t[O_PROJ].fill_(0), "has 1 input_scale of 2 that are not finite and above 0, first 0.0"),
    "nan": (lambda t: t[O_PROJ_IMAGE].fill_(math.nan), "has 1 input_scale of 2 .* first nan"),
    "negative": (lambda t: t[O_PROJ].fill_(-1), "has 1 input_scale of 2 .* first -1"),
    "another-shape": (lambda t: t.update({O_PROJ: torch.ones(1)}), rf"{O_PROJ} is \[1\] but must be \[\]"),
    "in-half": (lambda t: t.update({O_PROJ: t[O_PROJ].half()}), f"{O_PROJ} is F16 but must be F32"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_scales_that_are_wrong_are_one_line(
    change: Callable[[dict[str, Tensor]], object], message: str, written: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "fp8"))
    with pytest.raises(ValueError, match=message) as caught:
        load(changed(folder, change))
    assert "\n" not in str(caught.value)


def test_scales_of_the_input_of_dense_layers_are_refused(checkpoint: Path) -> None:
    changed(checkpoint, lambda t: t.update({O_PROJ: torch.tensor(1.0)}))
    with pytest.raises(ValueError, match=f"1 unexpected: {O_PROJ}"):
        load(checkpoint)


def test_scales_of_the_input_of_int8_layers_are_refused(oracle: Path, tmp_path: Path) -> None:
    quantise_checkpoint(oracle / "checkpoint", tmp_path / "int8", "int8")
    scales = {name: torch.tensor(1.0) for name in (O_PROJ, O_PROJ_IMAGE)}
    changed(tmp_path / "int8", lambda t: t.update(scales))
    with pytest.raises(ValueError, match=f"2 unexpected: {O_PROJ}, {O_PROJ_IMAGE}"):
        load(tmp_path / "int8")


def test_int8_takes_no_calibration(calibration: Calibration, oracle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind is int8 but there is a calibration; only fp8"):
        quantise_checkpoint(oracle / "checkpoint", tmp_path / "out", "int8", calibration=calibration)


def test_a_request_that_leaves_none_held_out_is_refused(pipeline: BagelPipeline) -> None:
    with pytest.raises(ValueError, match="1 requests; give two at least: the last one is held out"):
        calibrate(pipeline, REQUESTS[:1], margin=1.0)


@pytest.mark.parametrize("margin", [0.5, math.nan, math.inf], ids=str)
def test_a_margin_that_cannot_be_is_refused(margin: float, pipeline: BagelPipeline) -> None:
    with pytest.raises(ValueError, match=f"margin is {margin} but must be"):
        calibrate(pipeline, REQUESTS, margin)


def test_a_quantised_model_is_not_calibrated(written: Path) -> None:
    with pytest.raises(ValueError, match="the model is fp8 already; calibrate the original"):
        calibrate(load(written), REQUESTS, margin=1.0)


def test_ops_without_fp8_are_refused_before_a_picture_is_made(pipeline: BagelPipeline) -> None:
    dense_only = dataclasses.replace(reference_impl.OPS, name="theirs", quantised_rms_norm=None, attention=None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="'theirs' has no quantised_rms_norm"):
        calibrate(with_transformer(pipeline, ops=dense_only), REQUESTS, margin=1.0)


def test_an_input_that_nothing_reaches_has_no_scale(pipeline: BagelPipeline) -> None:
    transformer = pipeline.model.transformer
    silent = dataclasses.replace(transformer.layers[0], input_gain=transformer.layers[0].input_gain.clone())
    silent.input_gain[IMAGE] = 0
    deaf = with_transformer(pipeline, layers=(silent, *transformer.layers[1:]))
    with pytest.raises(ValueError, match=r"the image expert's input of layers\.0\.qkv reaches 0\.0"):
        calibrate(deaf, REQUESTS, margin=1.0)


FILES = {
    "no-json": ("[", "is not JSON"),
    "no-list": ("{}", "holds dict but must be a list"),
    "no-object": ('["a red cube"]', "request 0 is 'a red cube' but must be an object with a \"prompt\""),
    "no-prompt": ('[{"height": 64}]', 'request 0 is .* must be an object with a "prompt"'),
    "unknown-field": ('[{"prompt": "x", "size": 64}]', "request 0 has 'size'; a request has prompt, image"),
    "another-type": ('[{"prompt": "x", "steps": 2.5}]', "steps of request 0 is 2.5 but must be int"),
    "no-size": ('[{"prompt": "x"}]', "request 0: height is None and width None; both are needed"),
    "no-picture": ('[{"prompt": "x", "image": "in.png"}]', "in.png does not exist"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES.keys())
def test_a_file_of_requests_that_is_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "requests.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_requests(tmp_path / "requests.json")
    assert "\n" not in str(caught.value)
