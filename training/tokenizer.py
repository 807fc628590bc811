"""The tokenizer files of the small model: Qwen2's byte-level BPE, in which every word of the world is one token."""

import json
from itertools import pairwise
from pathlib import Path

from bagel.tokenizer import SPECIAL, Tokenizer
from training.world import PALETTE, RADII, SHAPES, TEXTURES, WORDS

PAD = "<|endoftext|>"
ADDED = (PAD, *SPECIAL[:2], "<|box_start|>", "<|box_end|>", *SPECIAL[2:], "<|vision_pad|>", "<|image_pad|>")
"""Tokens behind the vocabulary; Qwen2 declares these and more."""

_OPENING = "a an make turn remove add swap describe what how the is one two three there are"
_INNER = (
    "a an the and on in at to of with word background picture colour colours is are there many shapes into "
    "make turn remove add swap left right top bottom centre above below from one two three"
)


def words() -> tuple[list[str], list[str]]:
    """(words that follow a space, words that open a text or stand in quotation marks)."""
    looks = [*PALETTE, *SHAPES]
    inner = [*_INNER.split(), *looks, *RADII, *TEXTURES]
    opening = [*_OPENING.split(), *looks, *WORDS]
    return list(dict.fromkeys(inner)), list(dict.fromkeys(opening))


def write(folder: Path) -> Tokenizer:
    """Write vocab.json, merges.txt, tokenizer_config.json and tokenizer.json, and read them as BAGEL does."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges()
    pieces = [*_byte_letters(), *("".join(pair) for pair in merges)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    _dump(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(len(vocab) + i): {"content": text, **flags} for i, text in enumerate(ADDED)},
        "additional_special_tokens": list(ADDED[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[1],
        "errors": "replace",
        "pad_token": PAD,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _dump(folder / "tokenizer_config.json", config)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    tokenizer = Tokenizer.load(folder)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    return tokenizer


def _merges() -> list[tuple[str, str]]:
    """Pairs to join, in order, so that each word ends as one piece."""
    inner, opening = words()
    merges: dict[tuple[str, str], int] = {}
    for word in [*("\u0120" + word for word in inner), *opening]:
        pieces = _cut(word, merges)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return list(merges)


def _cut(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """BPE itself: join the neighbours whose pair comes first in the list, again and again."""
    pieces = list(word)
    while known := [pair for pair in pairwise(pieces) if pair in merges]:
        first = min(known, key=merges.__getitem__)
        i = next(i for i in range(len(pieces)) if (pieces[i], pieces[i + 1]) == first)
        pieces[i : i + 2] = [first[0] + first[1]]
    return pieces


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, in GPT-2's order: printable ones for themselves, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
