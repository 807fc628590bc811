"""What can be asked of the pipeline, and what comes back."""

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from bagel.sampler import Guidance
from reference_impl.contract import require


@dataclass(frozen=True)
class ImageRequest:
    """A picture to make: from text, or with `image` by editing it.

    height, width    pixels; both for text-to-image, neither for editing, where the resized input decides
    steps            times in the schedule, at least 2; updates are one fewer
    seed             of a CPU generator: the initial noise is drawn first, then the autoencoder's posterior noise
    think            let the model write a plan first, of at most max_think_tokens tokens
    init_noise       [image tokens, latent width], used instead of the drawn one (which is drawn all the same, so that
                     the posterior noise depends on the seed alone)
    posterior_noise  [C, H/8, W/8], likewise
    trajectory       [updates, image tokens, latent width]: the latent that each update starts from, instead of where
                     the one before ended; so an update's own error is seen, without those of earlier ones
    Raises ValueError for what cannot be combined.
    """

    prompt: str
    image: Image.Image | None = None
    height: int | None = None
    width: int | None = None
    steps: int = 50
    seed: int = 0
    think: bool = False
    timestep_shift: float = 3.0
    guidance: Guidance = field(default_factory=Guidance)
    init_noise: Tensor | None = None
    posterior_noise: Tensor | None = None
    trajectory: Tensor | None = None
    max_think_tokens: int = 1000

    def __post_init__(self) -> None:
        if self.image is None:
            require(
                self.height is not None and self.width is not None,
                "height is {} and width {}; both are needed without an input image: give them, or a picture to edit",
                self.height,
                self.width,
            )
        else:
            require(
                self.height is None and self.width is None,
                "height {} and width {} cannot be given with an input image, whose own size decides; leave them out",
                self.height,
                self.width,
            )
        require(0 <= self.seed < 2**63, "seed is {} but must lie in 0..2^63 - 1", self.seed)
        require(self.max_think_tokens > 0, "max_think_tokens is {} but must be at least 1", self.max_think_tokens)


@dataclass(frozen=True)
class GeneratedImage:
    """A picture and how it came about; every tensor is float32 on the CPU.

    image          RGB, 8 bit
    x_t, v_t       [updates, image tokens, latent width]: latent at the start of each update, velocity used there
    final_latents  [image tokens, latent width]
    decoded_raw    [3, H, W] before clamping to -1..1
    text           the plan of thinking mode
    """

    image: Image.Image
    x_t: Tensor
    v_t: Tensor
    final_latents: Tensor
    decoded_raw: Tensor
    text: str | None


@dataclass(frozen=True)
class TextRequest:
    """A question, perhaps about a picture. At most max_tokens passes are made, the best token taken each time."""

    prompt: str
    image: Image.Image | None = None
    max_tokens: int = 512

    def __post_init__(self) -> None:
        require(self.max_tokens > 0, "max_tokens is {} but must be at least 1", self.max_tokens)


@dataclass(frozen=True)
class GeneratedText:
    """The answer. ids start with <|im_start|> and leave out a final <|im_end|>, as upstream returns them."""

    text: str
    ids: list[int]
