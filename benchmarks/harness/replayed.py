"""What an implementation computed for a stored case, found by the names of the stored fields."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bagel.latents import Grid
from bagel.pipeline import BagelPipeline, GeneratedImage, GeneratedText, TextRequest
from bagel.probe import Probe, Site
from benchmarks.harness.impls import said
from benchmarks.harness.oracle import Case

BRANCHES = {"main": "main", "cfg_text": "no_text", "cfg_img": "no_image"}
"""Upstream's names of the contexts, and ours."""

WHOLE_RUN = ("velocity", "t", "logits")
"""Ops kept at every step; everything else of the sampler only at the first step of the main branch."""

MARKED = ("final_norm", "llm2vae")
"""Ops outside the layers that see the two markers too."""

LATENT, LATENT_KEYS = Site("latent", "vae2llm"), Site("latent", "k", layer=0)
"""Where the image tokens of an input picture are seen, and the first layer's context once they are in it."""


class NoResultError(Exception):
    """An implementation raised while a case was replayed; the message and the cause say what."""


@dataclass
class Replayed:
    """The result of a case, and the tensors that a probe saw on the way, float32 on the CPU."""

    pipeline: BagelPipeline
    result: GeneratedImage | GeneratedText
    seen: dict[Site, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, pipeline: BagelPipeline) -> "Replayed":
        """Run the case with its own transforms and noise.

        Raises NoResultError for what the implementation raises, except NotImplementedError: it does not have the dtype.
        """
        vae, vit = case.resizes()
        pipeline = replace(pipeline, vae_resize=vae, vit_resize=vit)
        seen: dict[Site, Tensor] = {}

        def keep(site: Site, tensor: Tensor) -> None:
            first = site.phase == "denoise" and (site.step, site.branch) == (0, "main")
            whole = site.op in WHOLE_RUN or site.phase in ("context", "encode", "vision")
            if first or whole or site.op == "sequence" or site in (LATENT, LATENT_KEYS):
                seen[site] = tensor.float().cpu()

        request = case.text_request() if case.task == "understand" else case.image_request()
        try:
            if isinstance(request, TextRequest):
                return cls(pipeline, pipeline.understand(request, Probe(keep)), seen)
            return cls(pipeline, pipeline.generate(request, Probe(keep)), seen)
        except NotImplementedError:
            raise
        except Exception as error:
            # A third party's op may raise anything, and NaN in a picture is a ValueError: findings about it.
            raise NoResultError(said(error)) from error

    def value(self, name: str) -> Tensor | None:
        """The counterpart of a stored field, in its shape; None if this run has no such thing."""
        if sampled := re.fullmatch(r"(.+?)(?:\.step(\d+))?\.every(\d+)", name):
            whole = self.value(sampled[1])
            if whole is None:
                return None
            return (whole if sampled[2] is None else whole[int(sampled[2])])[:: int(sampled[3])]
        for pattern, find in FIELDS.items():
            if match := re.fullmatch(pattern, name):
                try:
                    return find(self, match)
                except KeyError:
                    return None
        return None

    def series(self, phase: str, op: str, branch: str = "main") -> list[Tensor]:
        """What was seen here at every step at which it was computed."""
        steps = {s.step: t for s, t in self.seen.items() if (s.phase, s.op, s.branch) == (phase, op, branch)}
        if not steps:
            raise KeyError(f"{phase} {op} {branch}")
        return [steps[step] for step in sorted(step for step in steps if step is not None)]

    def argmax_ids(self) -> list[int]:
        """The best id of every pass of greedy decoding."""
        return [int(row.argmax()) for row in self.series("decode", "logits")]

    def written_ids(self) -> list[int]:
        """The ids of greedy decoding as upstream returns them: bos, then all but the last best id."""
        return [self.pipeline.model.tokenizer.bos, *self.argmax_ids()[:-1]]

    def context_rows(self, branch: str) -> int:
        """Rows of a context in front of image generation or text decoding."""
        return len(self.seen[Site("context", "k", branch, None, 0)])

    @property
    def image(self) -> GeneratedImage:
        """The result of a picture. Raises KeyError for a text."""
        if isinstance(self.result, GeneratedImage):
            return self.result
        raise KeyError("this case makes a text")

    def first(self, op: str, layer: int | None = None) -> Tensor:
        """From the first denoising pass of the main branch, its rows as upstream orders them."""
        tensor = self.seen[Site("denoise", op, "main", 0, layer)]
        if layer is None and op not in MARKED:
            return tensor
        tensor = _upstream_order(tensor, len(tensor), len(self.image.final_latents))
        return self._behind_input(tensor) if op in ("k", "v") else tensor

    def context(self, op: str, branch: str, layer: int) -> Tensor:
        """Keys ("k") or values ("v") in front of image generation, their rows as upstream orders them."""
        tensor = self.seen[Site("context", op, branch, None, layer)]
        return tensor if branch == "no_image" else self._behind_input(tensor)

    def _behind_input(self, tensor: Tensor) -> Tensor:
        """Keys or values with the input picture's latent block, if there is one, as upstream orders it."""
        block = self.seen.get(LATENT_KEYS)
        return tensor if block is None else _upstream_order(tensor, len(block), len(self.seen[LATENT]))

    def spatial(self) -> Tensor:
        """The final latent as the decoder gets it, [1, C, H/8, W/8]."""
        config, (height, width) = self.pipeline.model.config, self.image.decoded_raw.shape[1:]
        grid = Grid(height // config.stride, width // config.stride)
        return grid.unpack(self.image.final_latents, config.latent_patch)[None]


def _upstream_order(tensor: Tensor, end: int, n_tokens: int) -> Tensor:
    """The same rows, the image block in front of row `end` as [start, tokens, end] instead of [tokens, start, end]."""
    start = end - n_tokens - 2
    rows = [*range(start), end - 2, *range(start, end - 2), *range(end - 1, len(tensor))]
    return tensor[rows]


def _expert_rows(tensor: Tensor, expert: str) -> Tensor:
    """Rows of the text expert (the two markers) or of the image expert, which upstream calls vae."""
    return tensor[[0, -1]] if expert == "text" else tensor[1:-1]


def _hidden(run: Replayed, match: re.Match[str]) -> Tensor:
    index = int(match[1])
    return run.first("in", 0) if index == 0 else run.first("out", index - 1)


FIRST_LAYER = {
    "input_layernorm.in": "in",
    "input_layernorm.out": "input_norm",
    "post_attention_layernorm.in": "middle",
    "post_attention_layernorm.out": "post_norm",
    "mlp.in": "post_norm",
    "mlp.out": "mlp",
    "self_attn.in": "input_norm",
    "self_attn.out": "o",
    "attn_core.q": "q",
    "attn_core.k": "k",
    "attn_core.v": "v",
    "attn_core.out": "attention",
}
"""Upstream's modules of a layer, and the op whose tensor it is here."""

FIRST_FORWARD = {
    "vae2llm": "vae2llm",
    "time_embedder": "time",
    "latent_pos_embed": "latent_position",
    "llm2vae": "llm2vae",
}
ENCODE = {"input": "pixels", "mean": "mean", "logvar": "logvar", "z": "latent"}
VISION = {"patches": "patches", "embeddings": "embeddings", "post_layernorm": "post_norm", "connector": "connector"}

FIELDS: dict[str, Callable[[Replayed, re.Match[str]], Tensor]] = {
    r"x_t": lambda run, m: run.image.x_t,
    r"v_t": lambda run, m: run.image.v_t,
    r"final_latents": lambda run, m: run.image.final_latents,
    r"final_latent_spatial": lambda run, m: run.spatial(),
    r"decoded_raw": lambda run, m: run.image.decoded_raw,
    r"decoded_raw_pool8": lambda run, m: F.avg_pool2d(run.image.decoded_raw, 8),
    r"timesteps": lambda run, m: torch.stack(run.series("denoise", "t")),
    r"v_cond": lambda run, m: torch.stack(run.series("denoise", "velocity")),
    r"v_(cfg_text|cfg_img)": lambda run, m: torch.stack(run.series("denoise", "velocity", BRANCHES[m[1]])),
    r"ctx_(main|cfg_text|cfg_img)\.([kv])\.(\d+)": lambda run, m: run.context(m[2], BRANCHES[m[1]], int(m[3])),
    r"vae_encode0\.(input|mean|logvar|z)": lambda run, m: run.seen[Site("encode", ENCODE[m[1]])][None],
    r"first_forward\.hidden\.(\d+)": _hidden,
    r"first_forward\.final_norm\.(text|vae)\.out": lambda run, m: _expert_rows(run.first("final_norm"), m[1]),
    r"first_forward\.(\w+)\.out": lambda run, m: run.first(FIRST_FORWARD[m[1]]),
    r"layer0\.(rope_cos|rope_sin)": lambda run, m: run.first(m[1]),
    r"layer0\.(\w+)\.(text|vae)\.(in|out)": lambda run, m: _expert_rows(
        run.first(FIRST_LAYER[f"{m[1]}.{m[3]}"], 0), m[2]
    ),
    r"layer0\.(\w+\.\w+)": lambda run, m: run.first(FIRST_LAYER[m[1]], 0),
    r"vit\.layer\.(\d+)": lambda run, m: run.seen[Site("vision", "out", layer=int(m[1]))],
    r"vit\.lm_input_sequence": lambda run, m: run.seen[Site("vit", "sequence")],
    r"vit\.(\w+)": lambda run, m: run.seen[Site("vision", VISION[m[1]])],
    r"logits": lambda run, m: torch.stack(run.series("decode", "logits")),
    r"argmax_ids": lambda run, m: torch.tensor(run.argmax_ids()),
    r"generated_ids": lambda run, m: torch.tensor(run.written_ids()),
}
"""Pattern of a stored field's name -> where it is found here. The first that matches counts."""
