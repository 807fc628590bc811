"""The three jobs: text-to-image, image editing, and understanding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bagel.batch import Batch
from bagel.guided import Guided, Wish
from bagel.jobs import GeneratedImage, GeneratedText, ImageRequest, TextRequest
from bagel.latents import Grid
from bagel.model import Bagel
from bagel.probe import QUIET, Probe
from bagel.sampler import Descent, Guidance, Trajectory, integrate, schedule
from bagel.step import Graphs, Workspace
from bagel.transformer import Context
from bagel.transforms import VAE_RESIZE, VIT_RESIZE, Resize, to_image, to_pixels, to_rgb
from bagel.weights import Told
from reference_impl.contract import Kind, MoTOps, require
from reference_impl.parallel import ALONE, Parallel

__all__ = ["BagelPipeline", "GeneratedImage", "GeneratedText", "Guidance", "ImageRequest", "TextRequest"]

THINK_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. "
    "<think> planning process here </think> image here"
)
"""The system prompt of thinking mode, word for word as the model was trained with it."""


@dataclass(frozen=True)
class Sized:
    """Pixels [3, H, W] in -1..1, and how they divide into tokens."""

    pixels: Tensor
    grid: Grid


@dataclass(frozen=True)
class Picture:
    """An input picture of editing, as the autoencoder and the eye get it; `output` is the grid of what is made."""

    clean: Sized
    seen: Sized
    output: Grid


@dataclass(frozen=True)
class Ready:
    """A request with everything decided before the first pass."""

    times: Tensor
    picture: Picture | None
    grid: Grid
    init_noise: Tensor
    posterior_noise: Tensor | None
    given: Tensor | None


@dataclass(frozen=True)
class BagelPipeline:
    """A loaded model and the rules that bring input pictures to size; upstream's are the defaults.

    graphs: where buffers and, on a GPU, CUDA graphs of the updates are kept for later pictures of the same shape. With
    it, only one picture or batch may be made at a time, and the ops must be free of what a capture cannot record.
    """

    model: Bagel
    vae_resize: Resize = VAE_RESIZE
    vit_resize: Resize = VIT_RESIZE
    graphs: Graphs | None = None

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path | str,
        ops: MoTOps,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        parallel: Parallel = ALONE,
        told: Told = lambda done, total: None,
        quantise: Kind | None = None,
    ) -> "BagelPipeline":
        """Load a published BAGEL folder. The autoencoder is float32 whatever `dtype` says; input pictures are resized
        by the checkpoint's rules if its config.json has any.

        told: hears, again and again, how many bytes of how many have been read.

        quantise: "fp8" or "int8", to keep the experts' linear layers so. A checkpoint that `motbench quantise` wrote
        says itself what it is.

        With several ranks, each loads its part and must then be asked the same things; each gets the whole result.

        Raises OSError, ValueError or NotImplementedError in one line that says what is wrong with the folder.
        """
        model = Bagel.load(Path(folder), ops, torch.device(device), dtype, parallel, told, quantise)
        return cls(model, model.config.vae_resize, model.config.vit_resize)

    def with_graphs(self, most: int) -> "BagelPipeline":
        """The same, which keeps buffers and CUDA graphs of the last `most` shapes of pictures and batches."""
        return replace(self, graphs=Graphs(most))

    @torch.no_grad()
    def generate(self, request: ImageRequest, probe: Probe = QUIET) -> GeneratedImage:
        """Text-to-image, or editing if the request has an image. What is wrong is refused before the first pass.

        Raises ValueError.
        """
        ready = self._ready(request)
        contexts, plan = self._contexts(request, ready.picture, ready.posterior_noise, probe)
        for branch, context in contexts.items():
            _show(context, probe.at(phase="context", branch=branch))
        velocity = self._velocity(contexts, ready.grid, request.guidance, probe.at(phase="denoise"))
        del contexts  # the updates have copies
        trajectory = integrate(velocity, ready.init_noise, ready.times, ready.given)
        return self._decoded(trajectory, ready.grid, plan)

    @torch.no_grad()
    def generate_batch(self, requests: Sequence[ImageRequest]) -> list[GeneratedImage]:
        """Several pictures, each as `generate` makes it but for rounding; their updates are made together.

        Sizes, prompts, steps and guidance may differ. What is wrong with any is refused before the first pass. Raises
        ValueError.
        """
        if not requests:
            return []
        each = [self._ready(request) for request in requests]
        made = [
            self._contexts(request, ready.picture, ready.posterior_noise, QUIET)
            for request, ready in zip(requests, each, strict=True)
        ]
        together = zip(requests, each, made, strict=True)
        wishes = [Wish(contexts, ready.grid, request.guidance) for request, ready, (contexts, _) in together]
        guided = Guided(wishes, self._workspace(wishes))
        paths = [Descent(ready.init_noise, ready.times, ready.given) for ready in each]
        for step in range(max(path.updates for path in paths)):
            given = {i: path.at(step) for i, path in enumerate(paths) if step < path.updates}
            for i, velocity in guided(step, given).items():
                paths[i].advance(step, velocity)
        ended = zip(paths, each, made, strict=True)
        return [self._decoded(path.trajectory, ready.grid, plan) for path, ready, (_, plan) in ended]

    @torch.no_grad()
    def understand(self, request: TextRequest, probe: Probe = QUIET) -> GeneratedText:
        """Answer a question, greedily. Raises ValueError."""
        model = self.model
        seen = None if request.image is None else self._seen(request.image)
        self._check_length(request)
        context = model.transformer.empty_context()
        if seen:
            context = model.add_vit_image(context, seen.pixels, seen.grid, probe)
        context = model.add_text(context, model.tokenizer.prompt(request.prompt), probe)
        _show(context, probe.at(phase="context"))
        ids = model.write(context, request.max_tokens, probe)
        return GeneratedText(model.tokenizer.shown(ids), ids)

    def _ready(self, request: ImageRequest) -> Ready:
        """Everything about a request that can be refused. Raises ValueError."""
        times = schedule(request.steps, request.timestep_shift)
        picture = None if request.image is None else self._picture(request.image)
        grid = self._output_grid(request, picture)
        self._check_length(request)
        init_noise, posterior_noise = self._noise(request, grid, picture)
        given = self._given(request, init_noise.expand(len(times) - 1, *init_noise.shape))
        return Ready(times, picture, grid, init_noise, posterior_noise, given)

    def _picture(self, image: Image.Image) -> Picture:
        """The resize rules in upstream's order: the autoencoder's rule twice for the autoencoder, and the eye's rule on
        the picture that has been through the autoencoder's once.
        """
        first = self.vae_resize(to_rgb(image))
        stride, side = self.model.config.stride, self.model.latent_side
        return Picture(
            clean=_sized(self.vae_resize(first), stride, side),
            seen=self._seen(image),
            output=_sized(first, stride, side).grid,
        )

    def _seen(self, image: Image.Image) -> Sized:
        """What the eye gets, in understanding too."""
        first = self.vae_resize(to_rgb(image))
        return _sized(self.vit_resize(first), self.model.config.vision.patch, self.model.eye.side)

    def _output_grid(self, request: ImageRequest, picture: Picture | None) -> Grid:
        if picture:
            return picture.output
        height, width = request.height or 0, request.width or 0
        return Grid.of(height, width, self.model.config.stride, self.model.latent_side)

    def _check_length(self, request: ImageRequest | TextRequest) -> None:
        """Refuse a request that needs more rotary positions than the model has."""
        count = len(self.model.tokenizer.prompt(request.prompt))
        if isinstance(request, TextRequest):
            images, written = (1 if request.image else 0), request.max_tokens
        else:
            images, written = (2 if request.image else 0) + 1, request.max_think_tokens if request.think else 0
            count += len(self.model.tokenizer.prompt(THINK_PROMPT)) if request.think else 0
        limit = self.model.config.language.max_positions
        require(
            images + count + written <= limit,
            "the prompt has {} tokens, and with {} image blocks and {} tokens to write it needs {} positions, but the "
            "model has max_position_embeddings = {}; shorten the prompt or write fewer tokens",
            count,
            images,
            written,
            images + count + written,
            limit,
        )

    def _noise(self, request: ImageRequest, grid: Grid, picture: Picture | None) -> tuple[Tensor, Tensor | None]:
        """The initial noise and, for editing, the posterior noise, float32 on the model's device."""
        config, generator = self.model.config, torch.Generator().manual_seed(request.seed)
        shape = (grid.n_tokens, config.latent_width)
        init = _chosen(request.init_noise, torch.randn(shape, generator=generator), "init_noise")
        posterior = None
        if picture:
            h, w = (side * config.latent_patch for side in (picture.clean.grid.height, picture.clean.grid.width))
            drawn = torch.randn(config.autoencoder.latent_channels, h, w, generator=generator)
            posterior = _chosen(request.posterior_noise, drawn, "posterior_noise").to(self.model.device)
        return init.to(self.model.device), posterior

    def _given(self, request: ImageRequest, like: Tensor) -> Tensor | None:
        """The latents that the updates are to start from, of the shape of `like`, on the model's device."""
        if request.trajectory is None:
            return None
        return _chosen(request.trajectory, like, "trajectory").to(self.model.device)

    def _contexts(
        self, request: ImageRequest, picture: Picture | None, posterior_noise: Tensor | None, probe: Probe
    ) -> tuple[dict[str, Context], str | None]:
        """The contexts with everything ("main"), without the text and without the image; and the plan, if one was made.

        Text goes to main and to no_image, images to main only; no_text is main as it was before the last text.
        """
        model = self.model
        main = no_image = model.transformer.empty_context()
        if request.think:
            main = no_image = model.add_text(main, model.tokenizer.prompt(THINK_PROMPT), probe)
        if picture is not None and posterior_noise is not None:
            latent = model.encode(picture.clean.pixels, posterior_noise, probe)
            main = model.add_latent_image(main, latent, picture.clean.grid, probe)
            main = model.add_vit_image(main, picture.seen.pixels, picture.seen.grid, probe)
        no_text = main
        prompt = model.tokenizer.prompt(request.prompt)
        main = model.add_text(main, prompt, probe)
        no_image = model.add_text(no_image, prompt, probe.at(branch="no_image")) if picture else main
        plan = None
        if request.think:
            plan = model.tokenizer.shown(model.write(main, request.max_think_tokens, probe))
            main = model.add_text(main, model.tokenizer.prompt(plan), probe)
        return {"main": main, "no_text": no_text, "no_image": no_image}, plan

    def _velocity(
        self, contexts: dict[str, Context], grid: Grid, guidance: Guidance, probe: Probe
    ) -> Callable[[int, Tensor, Tensor], Tensor]:
        """The guided velocity of one picture as a function of (step, t [], x [n, width])."""
        wishes = [Wish(contexts, grid, guidance)]
        guided = Guided(wishes, self._workspace(wishes), probe)
        return lambda step, t, x: guided(step, {0: (t, x)})[0]

    def _workspace(self, wishes: Sequence[Wish]) -> Workspace:
        batch = Batch.of([wish.grid for wish in wishes], [wish.behind for wish in wishes])
        return Workspace(self.model, batch) if self.graphs is None else self.graphs.workspace(self.model, batch)

    def _decoded(self, trajectory: Trajectory, grid: Grid, plan: str | None) -> GeneratedImage:
        raw = self.model.autoencoder.decode(grid.unpack(trajectory.final, self.model.config.latent_patch)).cpu()
        x_t, v_t, final = (tensor.cpu() for tensor in (trajectory.x_t, trajectory.v_t, trajectory.final))
        return GeneratedImage(to_image(raw), x_t, v_t, final, raw, plan)


def _sized(image: Image.Image, stride: int, side: int) -> Sized:
    """A resized input picture. Raises ValueError if the checkpoint has no positions for it."""
    try:
        return Sized(to_pixels(image), Grid.of(image.height, image.width, stride, side))
    except ValueError as error:
        size = f"{image.width} x {image.height}"
        raise ValueError(
            f"the input image is resized to {size}, which does not fit this checkpoint: {error}"
        ) from error


def _chosen(given: Tensor | None, drawn: Tensor, name: str) -> Tensor:
    """The given latents instead of the drawn ones, if they have the same shape and are finite."""
    if given is None:
        return drawn
    require(given.shape == drawn.shape, "{} has shape {} but must be {}", name, tuple(given.shape), tuple(drawn.shape))
    require(given.is_floating_point(), "{} is {} but must be floating point", name, given.dtype, error=TypeError)
    noise = given.float()
    wrong = int((~noise.isfinite()).sum())
    require(wrong == 0, "{} holds {} NaN or infinite values of {}; draw it again", name, wrong, noise.numel())
    return noise


def _show(context: Context, probe: Probe) -> None:
    for i, kv in enumerate(context.layers):
        probe.at(layer=i)("k", kv.k)
        probe.at(layer=i)("v", kv.v)
