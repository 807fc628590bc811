"""Text <-> token ids, from the tokenizer files of a checkpoint folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from reference_impl.contract import require

BOS, EOS, IMAGE_START, IMAGE_END = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
SPECIAL = (BOS, EOS, IMAGE_START, IMAGE_END)
"""In the order in which missing ones are added."""

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text before BPE; needed only where there is no tokenizer.json."""


@dataclass(frozen=True)
class Tokenizer:
    """BPE with the four markers that BAGEL looks up by their text. Ids differ between checkpoints."""

    backend: Backend
    bos: int
    eos: int
    image_start: int
    image_end: int

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """From tokenizer.json, or from vocab.json and merges.txt. Raises FileNotFoundError or ValueError."""
        backend = _read(folder)
        _add(backend, _declared(folder), folder)
        known = _added(backend)
        backend.add_tokens([AddedToken(text, normalized=False) for text in SPECIAL if text not in known])
        bos, eos, image_start, image_end = (_id(backend, text) for text in SPECIAL)
        return cls(backend, bos, eos, image_start, image_end)

    @property
    def largest_id(self) -> int:
        """The embedding must have more rows than this."""
        return max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without markers around it."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def prompt(self, text: str) -> list[int]:
        """[bos, ids, eos]: how BAGEL reads a text."""
        return [self.bos, *self.encode(text), self.eos]

    def shown(self, ids: list[int]) -> str:
        """The text that ids starting with bos stand for: what lies between the first <|im_start|> and <|im_end|>."""
        text: str = self.backend.decode(ids, skip_special_tokens=False)
        return text.split(EOS)[0].split(BOS)[1]


def _read(folder: Path) -> Backend:
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    path = whole if whole.is_file() else vocab
    require(
        whole.is_file() or (vocab.is_file() and merges.is_file()),
        "{} holds neither tokenizer.json nor vocab.json with merges.txt; copy them from the checkpoint's source",
        folder,
        error=FileNotFoundError,
    )
    try:
        return Backend.from_file(str(whole)) if whole.is_file() else _from_bpe(vocab, merges)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} is not a tokenizer ({error}); download it again") from error


def _from_bpe(vocab: Path, merges: Path) -> Backend:
    backend = Backend(models.BPE.from_file(str(vocab), str(merges)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _declared(folder: Path) -> dict[int, AddedToken]:
    """The added tokens that tokenizer_config.json declares, by id."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        tokens = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        return {
            int(number): AddedToken(token["content"], **{flag: token[flag] for flag in flags if flag in token})
            for number, token in sorted(tokens.items(), key=lambda item: int(item[0]))
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}; download it again") from error


def _add(backend: Backend, declared: dict[int, AddedToken], folder: Path) -> None:
    """Add the declared tokens that the backend lacks, and see that each has the id it was declared with."""
    known = _added(backend)
    for number, token in declared.items():
        if token.content not in known:
            backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        require(
            found == number,
            "{}: token {} has id {} but tokenizer_config.json declares {}; the tokenizer files do not belong together",
            folder,
            token.content,
            found,
            number,
        )


def _added(backend: Backend) -> set[str]:
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def _id(backend: Backend, text: str) -> int:
    found = backend.token_to_id(text)
    if found is None:
        raise ValueError(f"token {text} could not be added to the tokenizer; download its files again")
    return found
