"""Masked language modelling with an encoder (Devlin et al. 2019)."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from model import heads
from train import losses
from train.common.errors import UserError
from train.data import documents, sources
from train.data.corruption import check_rate
from train.data.tokenizer import MASK, Tokenizer
from train.tasks import requests
from train.tasks.encoder import encode


@dataclasses.dataclass(frozen=True)
class TopWords(requests.Settings):
  """How many words to offer for a mask."""

  top_k: int = 5

  def __post_init__(self):
    if self.top_k < 1:
      raise UserError(f"top_k {self.top_k}: 1 word at least")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlm:
  """Learns the tokens that a window hides: 80% are <mask>, 10% another word, 10% themselves."""

  data: Mapping  # train/data/sources.py; examples have a "text"
  tokenizer: Tokenizer
  source_len: int  # tokens in a row; a window has two fewer, for bos and eos
  rate: float = 0.15  # share of a window's tokens that are hidden, rounded down
  whole_words: bool = False
  fixed_masks: bool = False  # the same tokens are hidden in every epoch
  cross_documents: bool = False  # windows run over the ends of documents
  seed: int = 0  # of the masks
  pack: bool = True
  decode_batch: int = 32

  has_score = False
  target_len = 0

  def __post_init__(self):
    check_rate(self.rate)
    self.tokenizer.mask  # noqa: B018 (UserError without one)

  @property
  def loss_key(self) -> tuple:
    return ("mlm", self.rate)

  @property
  def max_positions(self) -> int:
    return self.source_len

  def head(self, cfg, rngs):
    return heads.MaskedLmHead(cfg, rngs=rngs)

  def examples(self, split):
    return sources.open_split(self.data, split, ("text",))

  def items(self, split):
    starts = self.tokenizer.word_starts if self.whole_words else None
    tokenizer = self.tokenizer
    objective = documents.MaskedLm(tokenizer.roles, tokenizer.words, self.rate, starts)
    tokens = documents.Tokens(self.examples(split), self.tokenizer)
    length = self.source_len - self._frame
    return documents.Windows(
      tokens, length, objective, self.cross_documents, self.seed, self.fixed_masks
    )

  def loss(self, model, batch, key):
    """Logits are made for hidden tokens only, a seventh of all."""
    x_BSD = encode(model, batch, key)
    # windows hide their share rounded down: no row can hide more than this
    most = max(1, int(self.rate * self.source_len))
    weights_BT, place_BT = jax.lax.top_k(batch["weights"], most)
    x_BTD = jnp.take_along_axis(x_BSD, place_BT[..., None], axis=1)
    labels_BT = jnp.take_along_axis(batch["labels"], place_BT, axis=1)
    return losses.cross_entropy(model.logits(model.head(x_BTD)), labels_BT, weights_BT)

  def settings(self, **changes):
    settings = requests.changed(TopWords(), "mlm", changes)
    if settings.top_k > (count := len(self.tokenizer.words)):
      raise UserError(f"top_k {settings.top_k}: the vocabulary has {count} words")
    return settings

  def example(self, text):
    """A text with <mask> or [MASK] where words are wanted; UserError without one."""
    text = self.tokenizer.marked(text)
    if self.tokenizer.mask_name not in text:
      raise UserError(f"{text!r}: write {MASK} or [MASK] where a word is wanted")
    self._ids({"text": text})  # a text that is too long is told with its line
    return {"text": text}

  def requests(self, examples):
    return requests.Rows([self._ids(example) for example in examples])

  def predict(self, model, batch, settings):
    probs_BSV = jax.nn.softmax(model.logits(model.head(encode(model, batch))))
    # special tokens are no words, nor are the rows that a table has more than the vocabulary
    words_V = np.isin(np.arange(probs_BSV.shape[-1]), self.tokenizer.words)
    best_BSN, token_BSN = jax.lax.top_k(jnp.where(words_V, probs_BSV, -1), settings.top_k)
    return {"probs": best_BSN, "tokens": token_BSN}

  def outputs(self, examples, asked, predictions, settings):
    """The text with the likeliest words, and `masks`: for each the words and probabilities."""
    del asked, settings
    made = []
    for example, found in zip(examples, predictions):
      ids, masks = self._ids(example), []
      for place in (i for i, token in enumerate(ids) if token == self.tokenizer.mask):
        tokens, probs = found["tokens"][place].tolist(), found["probs"][place].tolist()
        ids[place] = tokens[0]
        words = [self.tokenizer.decode([token]) for token in tokens]
        masks.append([dict(word=word, prob=prob) for word, prob in zip(words, probs)])
      made.append(dict(text=self.tokenizer.decode(ids[self._frame - 1 :]), masks=masks))
    return made

  @property
  def _frame(self) -> int:
    """How many special tokens are around a text."""
    return len(self.tokenizer.roles.first) + 1

  def _ids(self, example):
    ids = self.tokenizer.encode_marked(example["text"])
    if len(ids) > self.source_len - self._frame:
      raise UserError(
        f"{example['text'][:40]!r}...: {len(ids)} tokens, and task.source_len={self.source_len} has"
        f" room for {self._frame} fewer: give less text around the mask"
      )
    return [*self.tokenizer.roles.first, *ids, self.tokenizer.roles.eos]

  def render(self, output, *, scores, colour):
    """The filled text, and below it the likeliest words of each mask with their probabilities."""
    del scores, colour
    lines = [output["text"]]
    for number, words in enumerate(output["masks"], 1):
      named = ((x["word"] if x["word"].strip() else repr(x["word"]), x["prob"]) for x in words)
      told = ", ".join(f"{word} {prob:.4f}" for word, prob in named)
      lines.append(f"  {MASK} {number}: {told}")
    return "\n".join(lines)

  def score(self, outputs, examples):
    raise UserError("mlm has a loss and no score: set evaluate.decode_every=0")
