"""The language model: blocks of rows go through the layers and, if kept, extend a context."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bagel.config import LanguageConfig
from bagel.experts import DENSE, Precision, merge_layer
from bagel.layers import KV, Block, MoTLayer, decoder_layer
from bagel.parallel import Share
from bagel.probe import QUIET, Probe
from bagel.weights import IMAGE_SUFFIX, LLM, TensorFiles
from reference_impl.contract import MoTOps, Rotary, Route, require
from reference_impl.parallel import ALONE, Parallel


@dataclass(frozen=True)
class Context:
    """Everything the model has seen: one KV per layer, and the rotary position of what comes next.

    It never changes; a pass returns a longer one. So keeping an earlier one, as guidance does, costs nothing.
    """

    layers: tuple[KV, ...]
    position: int = 0

    @property
    def n_rows(self) -> int:
        """T, the rows in front of the next pass."""
        return self.layers[0].k.shape[0]


@dataclass(frozen=True)
class Transformer:
    """The decoder with its embedding and output head.

    embedding, head  [vocab, H], not duplicated per expert
    layers           the decoder layers
    final_gain       [2, H] of the final RMSNorm
    parallel         the ranks that compute it together
    """

    config: LanguageConfig
    ops: MoTOps
    embedding: Tensor
    layers: tuple[MoTLayer, ...]
    final_gain: Tensor
    head: Tensor
    parallel: Parallel = ALONE

    @classmethod
    def load(
        cls,
        files: TensorFiles,
        config: LanguageConfig,
        ops: MoTOps,
        parallel: Parallel = ALONE,
        precision: Precision = DENSE,
    ) -> "Transformer":
        """Merge the experts of every layer, and keep this rank's part; `files.check` must have passed."""
        return cls(
            config=config,
            ops=ops,
            embedding=files[f"{LLM}embed_tokens.weight"],
            layers=tuple(merge_layer(files, i, config, parallel, precision) for i in range(config.layers)),
            final_gain=files.stacked([[f"{LLM}norm{s}.weight"] for s in ("", IMAGE_SUFFIX)]),
            head=files["language_model.lm_head.weight"],
            parallel=parallel,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations, the cache and all weights that are not quantised."""
        return self.embedding.dtype

    @property
    def linear_bytes(self) -> int:
        """The memory of this rank's part of all routed linear layers: what quantising makes smaller."""
        return sum(one.nbytes for layer in self.layers for one in (layer.qkv, layer.o, layer.gate_up, layer.down))

    def empty_context(self) -> Context:
        """A context that has seen nothing."""
        norm = self.layers[0].qk_norm
        nothing = self.embedding.new_empty(0, norm.n_kv_heads, norm.head_dim)
        return Context((KV(nothing, nothing),) * self.config.layers)

    def text_block(self, n_tokens: int, position: int) -> Block:
        """Tokens of the text expert, each at the next position, causal. Raises ValueError beyond the last position."""
        last = position + n_tokens
        require(
            last <= self.config.max_positions,
            "{} tokens after position {} need {} positions but the model has max_position_embeddings = {}; "
            "shorten the prompt",
            n_tokens,
            position,
            last,
            self.config.max_positions,
        )
        positions = torch.arange(position, last, device=self.device)
        return Block(Route.all_text(n_tokens, self.device), self._rotary(positions), causal=True, advance=n_tokens)

    def image_block(self, n_tokens: int, position: int, *, latent: bool) -> Block:
        """n_tokens and the two markers, all at one position, each row seeing all others: so their order is free.

        latent: the tokens belong to the image expert and come first, [tokens, start, end], which lets a kernel read
        them in blocks. Otherwise (what the eye sees) all rows belong to the text expert: [start, tokens, end].
        """
        n_text = 2 if latent else n_tokens + 2
        route = Route.image_then_text(n_tokens + 2 - n_text, n_text, self.device)
        rotary = self._rotary(torch.full((n_tokens + 2,), position, device=self.device))
        return Block(route, rotary, causal=False, advance=1, share=Share.of(route, rotary, self.parallel))

    def _rotary(self, positions: Tensor) -> Rotary:
        return Rotary.at(positions, self.config.head_dim, self.config.rope_theta)

    def embed(self, ids: list[int]) -> Tensor:
        """Token ids -> [n, H]."""
        return F.embedding(torch.tensor(ids, dtype=torch.int64, device=self.device), self.embedding)

    def run(self, x: Tensor, block: Block, context: Context, probe: Probe = QUIET) -> tuple[Tensor, Context]:
        """One pass: x [M, H] -> the last layer's output [M, H], before the final norm, and the context with x added.

        A probe sees this rank's rows and heads.
        """
        layers, own, share = [], block.own, block.share
        x = x if share is None else share.take(x)
        probe("rope_cos", own.rotary.cos)
        probe("rope_sin", own.rotary.sin)
        for i, (layer, past) in enumerate(zip(self.layers, context.layers, strict=True)):
            x, seen = decoder_layer(self.ops, layer, x, own, past, probe.at(layer=i))
            layers.append(seen)
        x = x if share is None else share.join(x)
        return x, Context(tuple(layers), context.position + block.advance)

    def final_norm(self, x: Tensor, route: Route, added: Tensor | None = None) -> Tensor:
        """The routed RMSNorm after the last layer, of x or of x + added: [M, H] -> [M, H]."""
        if added is None:
            return self.ops.rms_norm(x, self.final_gain, route, self.config.eps)
        return self.ops.add_rms_norm(x, added, self.final_gain, route, self.config.eps)[1]

    def logits(self, x: Tensor) -> Tensor:
        """Output of the last layer for text rows [M, H] -> [M, vocab]."""
        return F.linear(self.final_norm(x, Route.all_text(len(x), self.device)), self.head)
