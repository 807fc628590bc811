"""Markers by their text, and the same ids from either kind of tokenizer file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_impl
from bagel.pipeline import BagelPipeline
from bagel.tokenizer import SPECIAL, Tokenizer

FOLDER = Path(__file__).parents[1] / "data" / "bagel_oracle" / "checkpoint"
WHOLE = Tokenizer.load(FOLDER)
Edit = Callable[..., None]


@pytest.fixture(scope="module")
def from_bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bpe")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())
    return Tokenizer.load(folder)


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.sampled_from(["a  red\n\n cat's 123", "x<|im_end|>y", "é", "<tool_call>"]))
def test_vocab_and_merges_give_the_ids_of_tokenizer_json(from_bpe: Tokenizer, text: str) -> None:
    assert from_bpe.encode(text) == WHOLE.encode(text)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_text_is_cut_as_tokenizer_json_says(from_bpe: Tokenizer, part: str) -> None:
    ours, published = (json.loads(tokenizer.backend.to_str())[part] for tokenizer in (from_bpe, WHOLE))
    assert ours == published


def test_markers_have_the_ids_that_the_folder_gives_them() -> None:
    assert (WHOLE.bos, WHOLE.eos, WHOLE.image_start, WHOLE.image_end) == (557, 558, 565, 566)


def test_missing_markers_are_added_at_the_end_in_order(checkpoint: Path, edit_json: Edit) -> None:
    kept = [t for t in json.loads((checkpoint / "tokenizer.json").read_text())["added_tokens"] if t["id"] == 556]
    edit_json(checkpoint / "tokenizer.json", added_tokens=kept)
    (checkpoint / "tokenizer_config.json").unlink()
    found = Tokenizer.load(checkpoint)
    assert (found.bos, found.eos, found.image_start, found.image_end) == (557, 558, 559, 560)
    assert found.encode("".join(SPECIAL)) == [557, 558, 559, 560]


def test_files_that_do_not_belong_together_are_refused(checkpoint: Path, edit_json: Edit) -> None:
    edit_json(checkpoint / "tokenizer_config.json", added_tokens_decoder={"17": {"content": "<|im_start|>"}})
    with pytest.raises(ValueError, match=r"<\|im_start\|> has id 557 but tokenizer_config.json declares 17"):
        Tokenizer.load(checkpoint)


def test_tokenizer_larger_than_the_embedding_is_refused(checkpoint: Path, edit_json: Edit) -> None:
    edit_json(checkpoint / "llm_config.json", vocab_size=500)
    with pytest.raises(ValueError, match="largest id is 571 but vocab_size is 500"):
        BagelPipeline.from_checkpoint(checkpoint, reference_impl.OPS)


def test_folder_without_tokenizer_says_which_files_are_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor vocab.json with merges.txt"):
        Tokenizer.load(tmp_path)


def test_broken_tokenizer_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(checkpoint)


def test_prompt_stands_between_bos_and_eos() -> None:
    assert WHOLE.prompt("") == [WHOLE.bos, WHOLE.eos]


def test_shown_text_ends_at_eos() -> None:
    ids = [WHOLE.bos, *WHOLE.encode("a cat"), WHOLE.eos, *WHOLE.encode("more")]
    assert WHOLE.shown(ids) == "a cat"
