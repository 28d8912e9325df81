"""Prompt -> token ids of the text encoder, cleaned and padded as in the published code."""

import html
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from livetalk.errors import LivetalkError, WeightsError

MAX_TOKENS = 512  # rows of text that the published transformer reads

PADDING_ID = 0
END_ID = 1


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """Turns prompts into token ids.

    Attributes:
        encode: cleaned text -> token ids, the end token included, at most `num_tokens`.
    """

    encode: Callable[[str], list[int]]
    clean: Callable[[str], str]
    num_tokens: int  # length that every prompt is padded to

    def __call__(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Return token ids, int64, 0 after the text, and the mask, bool: each `[1, num_tokens]`."""
        ids = self.encode(self.clean(prompt))
        mask = torch.arange(self.num_tokens)[None] < len(ids)
        padding = [PADDING_ID] * (self.num_tokens - len(ids))
        return torch.tensor([ids + padding]), mask


def load_text_tokenizer(folder: Path, num_tokens: int = MAX_TOKENS) -> TextTokenizer:
    """Load the tokenizer of the published text encoder from `tokenizer.json`, or else `spiece.model`.

    Raises:
        WeightsError: neither file exists, or the file cannot be read.
        LivetalkError: a package that reads it is not installed.
    """
    for name, load in (("tokenizer.json", _load_json), ("spiece.model", _load_sentencepiece)):
        if (folder / name).is_file():
            return TextTokenizer(load(folder / name, num_tokens), _load_cleaner(), num_tokens)
    raise WeightsError(f"weights {folder}: holds neither tokenizer.json nor spiece.model; download it again")


def _load_json(path: Path, num_tokens: int) -> Callable[[str], list[int]]:
    tokenizers = _import_extra("tokenizers")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise WeightsError(f"weights {path}: is not a tokenizer, or damaged ({error})") from error
    # The file may ask for padding; `TextTokenizer` pads and needs the number of real tokens.
    tokenizer.no_padding()
    tokenizer.enable_truncation(num_tokens)
    return lambda text: list(tokenizer.encode(text).ids)


def _load_sentencepiece(path: Path, num_tokens: int) -> Callable[[str], list[int]]:
    sentencepiece = _import_extra("sentencepiece")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"weights {path}: is not a tokenizer, or damaged ({error})") from error
    return lambda text: [*processor.encode(text)[: num_tokens - 1], END_ID]


def _load_cleaner() -> Callable[[str], str]:
    # As in the published code: broken encodings, HTML entities (twice), white space.
    ftfy = _import_extra("ftfy")

    def clean(prompt: str) -> str:
        text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
        return re.sub(r"\s+", " ", text).strip()

    return clean


def _import_extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LivetalkError(
            f"the text encoder needs the package {name}: pip install 'livetalk[flashtalk]'"
        ) from error
