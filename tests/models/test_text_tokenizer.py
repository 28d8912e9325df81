"""Prompts to token ids: cleaning, padding, cutting off, and plain errors."""

import importlib
import io
import json
from pathlib import Path

import pytest
import torch

from livetalk.errors import LivetalkError, WeightsError
from livetalk.models.text_tokenizer import TextTokenizer, load_text_tokenizer

WORDS = ["<pad>", "</s>", "<unk>", "a", "man", "talks", "&", "ok"]


def write_words(folder: Path) -> Path:
    """Write a tokenizer of whole words that ends every text and, by its own settings, pads it wrongly."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("ftfy")
    ending = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    document: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": {
            "strategy": {"Fixed": 11},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 2,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        },
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": ending,
            "pair": ending,
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: index for index, word in enumerate(WORDS)},
            "unk_token": "<unk>",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def read(tokenizer: TextTokenizer, prompt: str) -> list[str]:
    """Return the words of a tokenised prompt, after checking the form of the tensors."""
    ids, mask = tokenizer(prompt)
    assert ids.shape == mask.shape == (1, tokenizer.num_tokens)
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    length = int(mask.sum())
    assert mask[0, :length].all()
    assert ids[0, length:].count_nonzero() == 0
    return [WORDS[index] for index in ids[0, :length].tolist()]


def test_prompts_are_cleaned_and_padded(tmp_path: Path) -> None:
    tokenizer = load_text_tokenizer(write_words(tmp_path))
    assert tokenizer.num_tokens == 512
    assert read(tokenizer, "  a\n man \t talks ") == ["a", "man", "talks", "</s>"]
    assert read(tokenizer, "a &amp;amp; man") == ["a", "&", "man", "</s>"]
    assert read(tokenizer, "\uff4f\uff4b") == ["ok", "</s>"]
    assert read(tokenizer, "") == ["</s>"]


def test_long_prompts_are_cut_off_before_the_end_token(tmp_path: Path) -> None:
    tokenizer = load_text_tokenizer(write_words(tmp_path), num_tokens=5)
    assert read(tokenizer, "a man talks " * 9) == ["a", "man", "talks", "a", "</s>"]
    assert read(tokenizer, "a man talks a") == ["a", "man", "talks", "a", "</s>"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sentencepiece_gives_the_same_form(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("ftfy")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a man talks", "a man", "talks"] * 20),
        model_writer=model,
        vocab_size=13,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    tokenizer = load_text_tokenizer(tmp_path, num_tokens=8)
    ids, mask = tokenizer("a  man\ntalks")
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    expected = processor.encode("a man talks")[:7]
    assert expected
    assert ids[mask].tolist() == [*expected, 1]
    assert tokenizer("a man talks " * 9)[0][0, -1] == 1


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"neither tokenizer.json nor spiece.model"):
        load_text_tokenizer(tmp_path)
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match=r"tokenizer.json: is not a tokenizer"):
        load_text_tokenizer(tmp_path)


@pytest.mark.parametrize("package", ["tokenizers", "ftfy"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_words(tmp_path)
    real = importlib.import_module

    def refuse(name: str) -> object:
        if name == package:
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(LivetalkError, match=rf"needs the package {package}: pip install 'livetalk\["):
        load_text_tokenizer(tmp_path)
