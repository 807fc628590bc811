"""The stages run end to end at tiny size: they learn, go on as if never interrupted, and export what bagel loads."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from bagel.pipeline import BagelPipeline, ImageRequest
from reference_impl import OPS
from training.__main__ import UNFINISHED, main
from training.autoencoder import AutoencoderOptions, AutoencoderStage, load_autoencoder, near_edges
from training.data import Drawers, Order
from training.files import load_state, read_lines
from training.loop import Run, train
from training.model import TINY, Trainee
from training.optim import Optimizer, Schedule, orthogonalise
from training.transformer import TransformerOptions, TransformerStage, build, encode, for_eye

CPU = torch.device("cpu")
# Minutes count from the import, which in a process of many tests is long ago.
SMALL = ["--tiny", "--device", "cpu", "--processes", "0", "--minutes", "1e6"]
SOME = TransformerOptions(texts=4, edits=3, asked=4, block=16, block_steps=3)
MIX = ["--texts", "4", "--edits", "3", "--asked", "4", "--block", "16", "--block-steps", "3"]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    assert main(["autoencoder", "--folder", str(folder), "--steps", "4", "--batch", "4", "--scenes", "16", *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def transformer(autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformer")
    arguments = ["transformer", "--folder", str(folder), "--autoencoder", str(autoencoder), "--steps", "8"]
    assert main([*arguments, *MIX, *SMALL]) == 0
    return folder


def run_in(folder: Path, steps: int | None, minutes: float = 1e6) -> Run:
    return Run(folder, minutes, steps, seed=0, device=CPU, log_every=1)


def stage_in(folder: Path, autoencoder: Path) -> TransformerStage:
    run = run_in(folder, None)
    return TransformerStage(build(autoencoder, TINY, run), TINY.picture, Drawers(0), SOME, run)


def update(optimizer: Optimizer, losses: dict[str, torch.Tensor], count: int) -> None:
    sum(losses.values(), torch.zeros(())).backward()
    optimizer.prepare(1.0, count)
    optimizer.step()


def test_steps_lower_the_loss_of_a_fixed_batch(autoencoder: Path, tmp_path: Path) -> None:
    stage = stage_in(tmp_path, autoencoder)
    found = []
    for count in range(12):
        losses = stage.losses(stage.prepare(0), torch.Generator().manual_seed(0))
        found.append({name: float(loss.detach()) for name, loss in losses.items()})
        update(stage.optimizer, losses, count)
    assert all(found[-1][name] < found[0][name] for name in found[0])


def test_autoencoder_steps_lower_the_loss_of_a_fixed_batch(config, tiny_folder: Path) -> None:  # type: ignore[no-untyped-def]
    from bagel.autoencoder import Autoencoder

    torch.manual_seed(0)
    options = AutoencoderOptions(batch=4, scenes=8)
    table = Drawers(0).table(Order("scene", 64, 64, tiny_folder), "test", 8)()
    stage = AutoencoderStage(Autoencoder(config.autoencoder), table, 64, options, run_in(tiny_folder, None))
    found = []
    for count in range(6):
        losses = stage.losses(stage.prepare(0), torch.Generator().manual_seed(0))
        found.append(float(sum(losses.values(), torch.zeros(())).detach()))
        update(stage.optimizer, losses, count)
    assert found[-1] < found[0]


def test_a_decoder_trained_further_decodes_the_same_latents(autoencoder: Path, tmp_path: Path) -> None:
    arguments = ["decoder", "--folder", str(tmp_path), "--autoencoder", str(autoencoder), "--steps", "2"]
    assert main([*arguments, "--batch", "4", "--scenes", "16", *SMALL]) == 0
    before, after = (load_file(folder / "ae.safetensors") for folder in (autoencoder, tmp_path))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    configs = [(folder / "ae_config.json").read_text() for folder in (autoencoder, tmp_path)]
    assert (changed, configs[0] == configs[1]) == ({"decoder"}, True)


def test_an_error_at_an_outline_weighs_more_than_one_on_a_plain_ground() -> None:
    pixels = torch.full((1, 3, 16, 16), -1.0)
    pixels[:, :, :, 8:] = 1.0
    assert near_edges(pixels)[0, 0, 0].tolist() == [0.0] * 6 + [1.0] * 5 + [0.0] * 5


def test_a_resumed_plan_ends_exactly_like_an_uninterrupted_one(autoencoder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(stage_in(whole, autoencoder), run_in(whole, 5))
    stage = stage_in(parts, autoencoder)
    ticks = iter([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e9])  # time runs out after some steps
    assert not train(stage, run_in(parts, 5), clock=lambda: next(ticks, 1e9))
    assert 0 < load_state(parts)[1]["step"] < 5  # type: ignore[index]
    assert train(stage_in(parts, autoencoder), run_in(parts, 5))
    (one, _), (other, _) = (load_state(folder) or ({}, {}) for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_running_out_of_time_says_so_and_keeps_the_state(autoencoder: Path, tmp_path: Path) -> None:
    arguments = ["transformer", "--folder", str(tmp_path), "--autoencoder", str(autoencoder)]
    assert main([*arguments, *MIX, *SMALL, "--minutes", "0"]) == UNFINISHED
    assert load_state(tmp_path) is not None


class Falling:
    """A stage of one number, whose steps take two seconds of a clock that only they move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.module = torch.nn.Linear(1, 1)
        self.optimizer = Optimizer(self.module, set(), 0.0, 0.01)

    def prepare(self, step: int) -> str:
        return "only"

    def losses(self, kind: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
        self.now += 2.0
        return {"loss": self.module(torch.ones(1)).square().sum()}


def test_a_plan_of_minutes_fits_into_them(tmp_path: Path) -> None:
    stage, run = Falling(), replace(run_in(tmp_path, None, minutes=10.0), log_every=10)
    assert train(stage, run, lambda: stage.now)
    assert 540 < stage.now <= 600
    assert read_lines(tmp_path / "log.jsonl")[-1]["step"] == stage.now / 2


def test_a_state_of_another_seed_is_refused(transformer: Path, autoencoder: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    arguments = ["transformer", "--folder", str(transformer), "--autoencoder", str(autoencoder), "--seed", "1"]
    assert main([*arguments, *MIX, *SMALL]) == 2
    assert "begun with seed 0 but 1" in capsys.readouterr().err


def test_a_transformer_needs_a_finished_autoencoder(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["transformer", "--folder", str(tmp_path / "t"), "--autoencoder", str(tmp_path), *SMALL]) == 2
    assert "no ae.safetensors" in capsys.readouterr().err


def test_an_autoencoder_of_other_sizes_is_refused(autoencoder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    arguments = ["transformer", "--folder", str(tmp_path), "--autoencoder", str(autoencoder), "--device", "cpu"]
    assert main([*arguments, "--processes", "0"]) == 2
    assert "does not fit the model's sizes" in capsys.readouterr().err


def test_the_autoencoder_is_two_files(autoencoder: Path, tmp_path: Path) -> None:
    for name in ("ae.safetensors", "ae_config.json"):
        (tmp_path / name).write_bytes((autoencoder / name).read_bytes())
    whole, copied = (load_autoencoder(folder, TINY, CPU) for folder in (autoencoder, tmp_path))
    assert (whole.scale, whole.shift) == (copied.scale, copied.shift) != (1.0, 0.0)


def test_the_export_loads_and_draws(transformer: Path, autoencoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    arguments = ["export", "--state", str(transformer), "--autoencoder", str(autoencoder), "--out", str(out), "--tiny"]
    assert main(arguments) == 0
    pipeline = BagelPipeline.from_checkpoint(out, OPS)
    made = pipeline.generate(ImageRequest("a red circle", height=64, width=96, steps=2))
    assert made.image.size == (96, 64)


def test_the_export_is_the_running_average(transformer: Path, autoencoder: Path, tmp_path: Path) -> None:
    arguments = ["export", "--state", str(transformer), "--autoencoder", str(autoencoder), "--out", str(tmp_path)]
    assert main([*arguments, "--tiny"]) == 0
    state = load_state(transformer)
    assert state is not None
    down = load_file(tmp_path / "ema.safetensors")["language_model.model.layers.1.mlp_moe_gen.down_proj.weight"]
    assert torch.equal(down, state[0]["average.layers.down"][1, 1].bfloat16())


def test_an_export_and_its_own_parameters_compute_the_same(config, words, trainee: Trainee, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from bagel.autoencoder import Autoencoder
    from bagel.transformer import Transformer
    from training.model import export

    with torch.no_grad():
        for p in trainee.parameters():
            p.copy_(p.bfloat16().float())  # what the file holds
    export(tmp_path, TINY, trainee, Autoencoder(config.autoencoder))
    loaded: Transformer = BagelPipeline.from_checkpoint(tmp_path, OPS).model.transformer
    mine, ids = trainee.transformer(OPS), words.prompt("a red circle")
    outputs = [t.run(t.embed(ids), t.text_block(len(ids), 0), t.empty_context())[0].detach() for t in (mine, loaded)]
    assert torch.equal(*outputs)


def test_images_are_encoded_as_inference_encodes_them(autoencoder: Path) -> None:
    from bagel.latents import Grid
    from training.render import render

    model = load_autoencoder(autoencoder, TINY, CPU)
    rows = Drawers(0).table(Order("scene", 48, 80, autoencoder), "test", 3)()["scene"]
    pictures = render(rows, 80, 48)
    tokens = encode(model, pictures, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    pixels = (pictures.float() / 255 - 0.5) / 0.5
    means, logvars = zip(*(model.posterior(one) for one in pixels), strict=True)
    noise = torch.randn(3, *means[0].shape, generator=generator)
    for i in range(3):
        latent = model.sample(means[i], logvars[i], noise[i])
        torch.testing.assert_close(tokens[i], Grid(5, 3).pack(latent, 2), rtol=1e-4, atol=1e-5)


def test_the_eye_sees_nearly_what_pillow_resizes() -> None:
    import numpy as np

    from bagel.transforms import Resize
    from training.render import picture_of
    from training.world import draw

    picture = picture_of(draw(Random(0)))
    exact = np.asarray(Resize(112, 112, 14)(picture)).astype(int)
    mine = for_eye(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(exact - mine.astype(int)).max() <= 2


def test_chunks_are_the_same_whoever_draws_them(tiny_folder: Path) -> None:
    order = Order("edit", 64, 64, tiny_folder)
    with Drawers(1) as workers:
        theirs = workers.table(order, "seed", 40)()
    mine = Drawers(0).table(order, "seed", 40)()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_logs_become_a_plot(transformer: Path, autoencoder: Path, tmp_path: Path) -> None:
    logs = [str(folder / "log.jsonl") for folder in (autoencoder, transformer)]
    assert main(["plot", *logs, "--out", str(tmp_path / "loss.png")]) == 0
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_a_sheet_of_held_out_samples_is_drawn(transformer: Path, autoencoder: Path, tmp_path: Path) -> None:
    arguments = ["sheet", "--state", str(transformer), "--autoencoder", str(autoencoder), "--tiny"]
    assert main([*arguments, "--out", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").is_file()


def test_scores_and_logs_become_a_card(transformer: Path, autoencoder: Path, tmp_path: Path) -> None:
    checkpoint, scores, card = tmp_path / "checkpoint", tmp_path / "scores.json", tmp_path / "card.md"
    where = ["--state", str(transformer), "--autoencoder", str(autoencoder)]
    assert main(["export", *where, "--out", str(checkpoint), "--tiny"]) == 0
    few = ["--count", "2", "--steps", "2", "--size", "64"]
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--out", str(scores), *few]) == 0
    logs = [str(folder / "log.jsonl") for folder in (autoencoder, transformer)]
    assert main(["card", "--scores", str(scores), "--logs", *logs, "--out", str(card)]) == 0
    assert "| text-to-image | colour |" in card.read_text()


def test_pictures_of_another_size_are_not_scored(transformer: Path, autoencoder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    where = ["--state", str(transformer), "--autoencoder", str(autoencoder)]
    assert main(["export", *where, "--out", str(tmp_path), "--tiny"]) == 0
    assert main(["evaluate", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "s.json"), "--size", "128"]) == 2
    assert "resizes pictures of 128 pixels to 64; score it at --size 64" in capsys.readouterr().err


def test_a_log_has_a_line_per_step(transformer: Path) -> None:
    lines = [line for line in read_lines(transformer / "log.jsonl") if "step" in line]
    assert lines[-1].keys() >= {"step", "seconds", "text_to_image", "edit", "answer"}


@pytest.mark.parametrize("shape", [(2, 8, 24), (2, 24, 8)], ids=["wide", "tall"])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3


def test_the_schedule_warms_up_and_cools_down() -> None:
    schedule = Schedule(total=1000, warmup=100, cooldown=0.4)
    assert [schedule.factor(step) for step in (0, 99, 500, 800, 1000)] == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.0])


def test_quantised_layers_of_one_task_are_scored(transformer: Path, autoencoder: Path, tmp_path: Path) -> None:
    checkpoint, scores = tmp_path / "checkpoint", tmp_path / "scores.json"
    where = ["--state", str(transformer), "--autoencoder", str(autoencoder)]
    assert main(["export", *where, "--out", str(checkpoint), "--tiny"]) == 0
    few = ["--count", "2", "--steps", "2", "--size", "64", "--task", "edit", "--dtype", "bfloat16", "--quantise", "fp8"]
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--out", str(scores), *few]) == 0
    found = json.loads(scores.read_text())
    assert (found["options"]["quantise"], list(found["scores"])) == ("fp8", ["edit"])
    assert len(found["right"]["edit"]) == 2


def test_an_implementation_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], transformer: Path, autoencoder: Path
) -> None:
    where = ["--state", str(transformer), "--autoencoder", str(autoencoder)]
    assert main(["export", *where, "--out", str(tmp_path), "--tiny"]) == 0
    asked = ["--size", "64", "--ops", "reference_impl:NOTHING"]
    assert main(["evaluate", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "s.json"), *asked]) == 2
    assert "implementation 'reference_impl:NOTHING' is not to be had" in capsys.readouterr().err
