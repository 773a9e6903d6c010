"""Sentence encoders: texts in, one vector per text out. One function finds them all by name.

Only sentence-transformers' own models say what a text means. The two encoders that need no download say which words
it has (bag of words), or how a tiny policy reads it (its hidden states, averaged): enough to see rollouts collapse.
"""

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from psn_tutorial.errors import UserError
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.loading import check_weights, quiet
from psn_tutorial.tasks.registry import TASK_NAMES

BAG_OF_WORDS = "bag-of-words"
MINILM = "all-MiniLM-L6-v2"
SLOTS = 1024  # of a bag of words; the words of the shipped tasks all have different ones


@dataclass(frozen=True)
class SentenceEncoder:
    """What :func:`sentence_encoder` found.

    Attributes:
        name: what it is; print it, for "auto" chooses by what the machine has.
        embed: the encoder proper, for different texts: list of N texts -> [N, D].
    """

    name: str
    embed: Callable[[list[str]], Tensor]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One vector per text, [B, D] float32 on the CPU; a text that occurs often is encoded once.

        Raises UserError when there is no text.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not places:
            raise UserError("texts must hold at least one text, got none")
        return self.embed(list(places)).float().cpu()[[places[text] for text in texts]]


def sentence_encoder(name: str = "auto") -> SentenceEncoder:
    """The encoder called ``name``:

    "auto": all-MiniLM-L6-v2 where this machine has it already, else "bag-of-words"; never uses the network.
    "bag-of-words": how often each blank-separated word occurs. Fast; ignores order and meaning.
    "countdown", "rules", "chain": the shipped policy of that task, its last hidden states averaged over the text, by
        sentence-transformers' Transformer and Pooling modules.
    a folder: a model that sentence-transformers saved, or any transformers checkpoint, averaged as above.
    anything else: a model of the hub, "all-MiniLM-L6-v2" or "owner/name"; fetched on first use, unless HF_HUB_OFFLINE
        is set. MiniLM reads 256 word pieces: a longer text is judged by its beginning.

    All but a bag of words import sentence-transformers, which takes seconds.

    Raises:
        UserError: sentence-transformers is not installed, or the model is not there or cannot be read.
    """
    if name == "auto":
        name = MINILM if _cached(_repository(MINILM)) and _installed() else BAG_OF_WORDS
    if name == BAG_OF_WORDS:
        return SentenceEncoder(name, bag_of_words)
    if not _installed():
        raise UserError(
            f"encoder {name!r} needs sentence-transformers: pip install 'psn-tutorial[embeddings]', "
            f"or use {BAG_OF_WORDS!r}"
        )
    try:
        with quiet():
            model = _load(name)
    except UserError:
        raise
    except Exception as error:  # the hub, transformers and safetensors raise a dozen different types here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"encoder {name!r} is no folder and no model that this machine has or can fetch ({reason}); "
            f"without a network use {BAG_OF_WORDS!r} or one of {', '.join(TASK_NAMES)}"
        ) from error
    return SentenceEncoder(name, lambda texts: model.encode(texts, convert_to_tensor=True, show_progress_bar=False))


def bag_of_words(texts: Sequence[str]) -> Tensor:
    """Word counts, [B, 1024]: each word has the slot crc32(word) mod 1024, so that no vocabulary needs to be kept."""
    counts = torch.zeros(len(texts), SLOTS)
    words = [text.split() or [""] for text in texts]  # the empty text is one word too: no vector is zero
    rows = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(text) for text in words]))
    slots = torch.tensor([zlib.crc32(word.encode()) % SLOTS for text in words for word in text])
    return counts.index_put_((rows, slots), torch.ones(len(slots)), accumulate=True)


def _load(name: str):
    """The sentence-transformers model behind a name that is neither "auto" nor "bag-of-words"."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported on the way; its warnings do not matter
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = base_folder(name) if name in TASK_NAMES else Path(name)
    if (folder / "config.json").is_file():
        _check_whole(name, folder)
    if (folder / "modules.json").is_file():
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    if (folder / "config.json").is_file():
        words = Transformer(str(folder))
        return SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), "mean")], device="cpu")
    repository = _repository(name)
    if not (cached := _cached(repository)):
        from huggingface_hub import model_info

        model_info(repository, timeout=10)  # says at once that there is no network; loading would try for a minute
    return SentenceTransformer(repository, device="cpu", local_files_only=cached)


def _check_whole(name: str, folder: Path) -> None:
    """Raise UserError where transformers would fill weights with random numbers; a pooler, which BERT has beside the
    hidden states that are averaged, may be missing, and a head may be there."""
    from transformers import AutoModel

    settings = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    _, report = AutoModel.from_pretrained(folder, output_loading_info=True, **settings)
    check_weights(f"encoder {name!r}", [n for n in report["missing_keys"] if "pooler" not in n], (), {})


def _repository(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"


def _cached(repository: str) -> bool:
    """Does the hub's cache on this machine hold the model?"""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "modules.json"), str)


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("sentence_transformers") is not None
