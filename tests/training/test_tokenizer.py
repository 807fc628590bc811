from pathlib import Path
from random import Random

import pytest

from bagel.tokenizer import Tokenizer
from training.data import ANSWER_TOKENS, EDIT_TOKENS, PROMPT_TOKENS, QUESTION_TOKENS
from training.edits import draw_edit
from training.tokenizer import words as known_words
from training.understanding import ask
from training.world import caption, draw

TEXTS = [caption(draw(Random(seed))) for seed in range(300)] + [
    draw_edit(Random(seed)).instruction for seed in range(300)
]


def test_every_text_of_the_world_comes_back(words: Tokenizer) -> None:
    assert all(words.shown(words.prompt(text)) == text for text in TEXTS)


@pytest.mark.parametrize("text", ["Grüße, 12 pièces!", "日本", "a\n\tb"])
def test_any_other_text_comes_back_too(words: Tokenizer, text: str) -> None:
    assert words.shown(words.prompt(text)) == text


def test_every_word_is_one_token(words: Tokenizer) -> None:
    inner, opening = known_words()
    assert [word for word in inner if len(words.encode(f" {word}")) != 1] == []
    assert [word for word in opening if len(words.encode(word)) != 1] == []


def test_vocabulary_and_merges_alone_give_the_same_ids(tiny_folder: Path, tmp_path: Path, words: Tokenizer) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    again = Tokenizer.load(tmp_path)
    assert [again.prompt(text) for text in TEXTS] == [words.prompt(text) for text in TEXTS]


def test_every_text_fits_its_place(words: Tokenizer) -> None:
    scenes = [draw(Random(seed)) for seed in range(2000)]
    asked = [ask(Random(seed), scene) for seed, scene in enumerate(scenes)]
    assert max(len(words.prompt(caption(scene))) for scene in scenes) <= PROMPT_TOKENS
    assert max(len(words.prompt(draw_edit(Random(seed)).instruction)) for seed in range(2000)) <= EDIT_TOKENS
    assert max(len(words.prompt(question)) for question, _ in asked) <= QUESTION_TOKENS
    assert max(len(words.prompt(answer)) for _, answer in asked) <= ANSWER_TOKENS
