"""Stage 2: the transformer with its adapters and its eye, on text-to-image, editing and questions in every step.

All three are learnt together: the text expert and the eye serve each of them, and would forget one for another.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bagel.autoencoder import Autoencoder
from bagel.latents import Grid
from bagel.tokenizer import Tokenizer
from training import batched
from training.autoencoder import load_autoencoder, quickly, to_range
from training.data import Drawers, Order, Table
from training.files import load_state
from training.flow import Prompted, Source, flow_loss, mixed
from training.loop import Run, describe, train
from training.model import LayerTensors, Sizes, Trainee, export, write_configs
from training.optim import Optimizer
from training.render import render
from training.understanding import Asked, answer_loss


@dataclass(frozen=True)
class TransformerOptions:
    """How much of what a step holds, and how fast it learns.

    texts, edits, asked  samples per step of the three tasks
    block                samples drawn and encoded at a time: scenes, and half as many edits
    block_steps          steps for which a block is used
    ask_weight           of the answers' cross-entropy beside the velocity's error
    """

    texts: int = 512
    edits: int = 192
    asked: int = 128
    block: int = 32768
    block_steps: int = 1000
    muon_rate: float = 6e-3
    adam_rate: float = 2e-3
    ask_weight: float = 0.1
    compiled: bool = False


def muon_matrices(trainee: Trainee) -> set[str]:
    """The matrices between hidden states; embeddings, the head and what meets latents and times are AdamW's."""
    stacked = {f"layers.{name}" for name in LayerTensors._fields if trainee.layers[name].ndim == 4}
    others = {name for name, p in trainee.eye.named_parameters(prefix="eye") if p.ndim == 2 and p.requires_grad}
    return stacked | {name for name in others if "position_embedding" not in name}


class TransformerStage:
    """Losses of a block of encoded pictures, from the seed and the step."""

    def __init__(
        self, models: tuple[Trainee, Autoencoder], side: int, drawers: Drawers, options: TransformerOptions, run: Run
    ) -> None:
        self.trainee, self.autoencoder = models
        self.side, self.drawers, self.options, self.run = side, drawers, options, run
        self.optimizer = Optimizer(self.trainee, muon_matrices(self.trainee), options.muon_rate, options.adam_rate)
        self.layer = torch.compile(batched.decoder_layer, dynamic=False) if options.compiled else batched.decoder_layer
        self.index = -1
        self.block: dict[str, Table] = {}
        self.coming: dict[int, dict[str, Callable[[], Table]]] = {}

    def prepare(self, step: int) -> str:
        """Every eighth step makes wide pictures and every eighth tall ones. A block serves many steps."""
        self._enter_block(step // self.options.block_steps)
        return {3: "wide", 7: "tall"}.get(step % 8, "square")

    def losses(self, kind: str, generator: torch.Generator) -> dict[str, Tensor]:
        """The three tasks' terms, each a mean over its samples, weighted."""
        options = self.options
        return {
            "text_to_image": self.flow(kind, options.texts, generator),
            "edit": self.flow("edit", options.edits, generator),
            "answer": options.ask_weight * self.answers(options.asked, generator),
        }

    def flow(self, kind: str, n: int, generator: torch.Generator) -> Tensor:
        """The loss of n samples of text-to-image, or of editing if kind is "edit"."""
        batch = self._pick(kind, n, generator)
        with mixed(self.run.device):
            return flow_loss(self.trainee, self._wish(batch, kind), batch["tokens"], generator, self.layer)

    def answers(self, n: int, generator: torch.Generator) -> Tensor:
        """The loss of n questions."""
        batch = self._pick("square", n, generator)
        with mixed(self.run.device):
            return answer_loss(self.trainee, self._asked(batch), self.layer)

    def _wish(self, batch: Table, kind: str) -> Prompted:
        source = None
        if "source" in batch:
            source = Source(batch["source"], to_range(batch["pixels"]))
        width, height = self._size(kind)
        return Prompted(Grid(height // 16, width // 16), batch["prompt"], batch["prompt_lengths"], source)

    def _asked(self, batch: Table) -> Asked:
        return Asked(
            to_range(batch["pixels"]),
            batch["question"],
            batch["question_lengths"],
            batch["answer"],
            batch["answer_lengths"],
        )

    def _pick(self, kind: str, n: int, generator: torch.Generator) -> Table:
        table = self.block[kind]
        rows = torch.randint(len(table["tokens"]), (n,), generator=generator, device=self.run.device)
        return {name: column[rows] for name, column in table.items()}

    def _start_drawing(self, index: int) -> None:
        """Let the workers draw a block while the device trains on the one before it."""
        n, seed = self.options.block, f"{self.run.seed}/{index}"
        counts = {"square": n, "wide": n // 8, "tall": n // 8, "edit": n // 2}
        self.coming = {
            index: {
                kind: self.drawers.table(
                    Order("edit" if kind == "edit" else "scene", *self._size(kind), self.run.folder), seed, count
                )
                for kind, count in counts.items()
            }
        }

    def _size(self, kind: str) -> tuple[int, int]:
        """(width, height) in pixels."""
        long, short = self.side + 32, self.side - 16
        return {"wide": (long, short), "tall": (short, long)}.get(kind, (self.side, self.side))

    def _enter_block(self, index: int) -> None:
        if index == self.index:
            return
        if index not in self.coming:
            self._start_drawing(index)
        tables = {kind: waiting() for kind, waiting in self.coming[index].items()}
        generator = torch.Generator(self.run.device).manual_seed(self.run.seed * 7_919 + index)
        for kind, table in tables.items():
            fresh = self._encoded(table, self._size(kind), generator)
            held = self.block.setdefault(kind, fresh)
            for name, column in held.items():
                column.copy_(fresh[name])  # into the same memory: a captured step reads from there
        self.index = index
        self._start_drawing(index + 1)

    def _encoded(self, table: Table, size: tuple[int, int], generator: torch.Generator) -> Table:
        """Rows of scenes -> image tokens, and pixels for the eye; all on the device."""
        width, height = size
        table = {name: column.to(self.run.device) for name, column in table.items()}
        target = table.pop("after" if "after" in table else "scene")
        before = table.pop("before", None)
        encoded: dict[str, list[Tensor]] = {"tokens": [], "source": [], "pixels": []}
        for i in range(0, len(target), 256):
            picture = render(target[i : i + 256], height, width)
            encoded["tokens"].append(encode(self.autoencoder, picture, generator))
            if before is not None:
                picture = render(before[i : i + 256], height, width)
                encoded["source"].append(encode(self.autoencoder, picture, generator))
            if height == width:
                encoded["pixels"].append(for_eye(picture))
        return table | {name: torch.cat(parts) for name, parts in encoded.items() if parts}


@torch.no_grad()
def encode(autoencoder: Autoencoder, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [B, 3, H, W] -> samples of the posterior as image tokens [B, n, width] float32, as bagel's Bagel.encode."""
    mean, logvar = quickly(autoencoder.encoder, to_range(pictures)).chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    latents = autoencoder.sample(mean, logvar, noise)
    b, c, h, w = latents.shape
    cut = latents.view(b, c, h // 2, 2, w // 2, 2)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, h * w // 4, 4 * c)


def for_eye(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> uint8 at 7/8 of the size, 14 pixels for 16: what Pillow's bicubic resize makes, nearly."""
    side = pictures.shape[-1] * 7 // 8
    smaller = F.interpolate(pictures.float(), (side, side), mode="bicubic", antialias=True, align_corners=False)
    return smaller.round().clamp(0, 255).to(torch.uint8)


def build(autoencoder: Path, sizes: Sizes, run: Run) -> tuple[Trainee, Autoencoder]:
    """The two models of the stage: a fresh trainee and a finished autoencoder, whose figures the configs get."""
    frozen = load_autoencoder(autoencoder, sizes, run.device)
    config = write_configs(run.folder, sizes, frozen.scale, frozen.shift)
    trainee = Trainee(config, sizes, Tokenizer.load(run.folder), run.seed)
    return trainee.to(run.device), frozen


def averaged(state: Path, autoencoder: Path, sizes: Sizes, folder: Path) -> tuple[Trainee, Tokenizer]:
    """The running average of a stage's state, on the CPU; configs and tokenizer are written to `folder`.

    Raises FileNotFoundError if there is no state.
    """
    found = load_state(state)
    if found is None:
        raise FileNotFoundError(f"{state} holds no complete state-*.safetensors; give the transformer stage's folder")
    tensors, progress = found
    frozen = load_autoencoder(autoencoder, sizes, torch.device("cpu"))
    config = write_configs(folder, sizes, frozen.scale, frozen.shift)
    words = Tokenizer.load(folder)
    trainee = Trainee(config, sizes, words, progress["seed"])
    averages = {name.removeprefix("average."): t for name, t in tensors.items() if name.startswith("average.")}
    # The tables of positions are not trained, so they are in no state: the fresh ones are the same.
    trainee.load_state_dict(trainee.state_dict() | averages)
    return trainee, words


def export_checkpoint(state: Path, autoencoder: Path, sizes: Sizes, out: Path) -> None:
    """Write the running average of a stage's state as a BAGEL checkpoint folder."""
    trainee, _ = averaged(state, autoencoder, sizes, out)
    export(out, sizes, trainee, load_autoencoder(autoencoder, sizes, torch.device("cpu")))


def train_transformer(run: Run, autoencoder: Path, sizes: Sizes, options: TransformerOptions, processes: int) -> bool:
    """Train; True if the plan is complete. The state's running average is what `export` writes."""
    with Drawers(processes) as drawers:
        models = build(autoencoder, sizes, run)
        stage = TransformerStage(models, sizes.picture, drawers, options, run)
        describe(run, stage="transformer", parameters=sum(p.numel() for p in models[0].parameters()), **asdict(options))
        return train(stage, run)
