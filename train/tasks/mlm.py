"""Predicts masked words with an encoder (masked language modelling: Devlin et al. 2019)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from model import heads, layers
from train import losses
from train.common.errors import UserError, choose
from train.data import corruption, documents
from train.data.tokenizer import MASK
from train.tasks.base import BPE_WITH_MASK, HuggingFace, Settings, Task, option
from train.tasks.requests import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopWords(Settings):
  """The number of words to offer for a mask."""

  top_k: int = option(5, "words predicted for each mask", "[1, inf)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlm(Task):
  """Learns the tokens that a window hides: 80% are <mask>, 10% another word, 10% themselves."""

  source_len: int = 128  # tokens in a row; a window has two fewer, for bos and eos
  rate: float = 0.15  # share of a window's tokens that are hidden, rounded down, but at least one
  whole_words: bool = False
  fixed_masks: bool = False  # the same tokens are hidden in every epoch
  cross_documents: bool = False  # windows run over the ends of documents
  seed: int = 0  # of the masks
  head_activation: str = ""  # before the words; "": the model's

  default_tokenizer = BPE_WITH_MASK
  settings_class = TopWords
  streams = True
  hf_kind = "mlm"

  def __post_init__(self):
    super().__post_init__()
    corruption.check_rate(self.rate)
    self.tokenizer.mask  # noqa: B018 (raises UserError without one)

  @property
  def loss_key(self):
    return ("mlm", self.rate, self.head_activation)

  @property
  def most_hidden(self) -> int:
    return corruption.most_hidden(self.source_len, self.rate)

  def head(self, cfg, rngs):
    if self.head_activation:
      choose(layers.ACTIVATIONS, self.head_activation, "task.head_activation")
    return heads.MaskedLmHead(cfg, activation=self.head_activation, rngs=rngs)

  def items(self, split):
    tokenizer, tokens = self.tokenizer, documents.Tokens(self.examples(split), self.tokenizer)
    starts = tokenizer.word_starts if self.whole_words else None
    objective = documents.MaskedLm(tokenizer.roles, tokenizer.words, self.rate, starts)
    length = self.source_len - self._frame
    return documents.Windows(
      tokens, length, objective, self.cross_documents, self.seed, self.fixed_masks
    )

  def hugging_face(self):
    return HuggingFace(self.hf_kind, pool_activation=self.head_activation, transform="dense_norm")

  def network(self, model):
    """Returns the encoder that predicts hidden words, with a head."""
    return model

  def hidden(self, model, batch, key):
    """Returns logits [B, T, V], labels, weights and places [B, T] of the hidden tokens.

    T is the most that a row can hide, so that no logits are computed for other tokens.
    """
    network = self.network(model)
    x_BSD = self.encode(network, batch, key)
    labels_BT, weights_BT, place_BT = self._targets(batch)
    x_BTD = jnp.take_along_axis(x_BSD, place_BT[..., None], axis=1)
    return model.logits(network.head(x_BTD)), labels_BT, weights_BT, place_BT

  def _targets(self, batch):
    """Returns labels, weights and places [B, T] of the hidden tokens."""
    weights_BT, place_BT = jax.lax.top_k(batch["weights"], self.most_hidden)
    return jnp.take_along_axis(batch["labels"], place_BT, axis=1), weights_BT, place_BT

  def loss(self, model, batch, key):
    return self.sums(self.logits(model, batch, key), batch)

  def logits(self, model, batch, key=None):
    """Returns the logits [B, T, V] of the hidden tokens, see `hidden`."""
    return self.hidden(model, batch, key)[0]

  def sums(self, logits_BTV, batch):
    labels_BT, weights_BT, _ = self._targets(batch)
    return losses.cross_entropy(logits_BTV, labels_BT, weights_BT)

  def soft_loss(self, logits_BTV, teacher_BTV, batch, temperature):
    return losses.divergence(logits_BTV, teacher_BTV, self._targets(batch)[1], temperature)

  def settings(self, **changes):
    settings = super().settings(**changes)
    if settings.top_k > (count := len(self.tokenizer.words)):
      raise UserError(f"top_k is {settings.top_k}: the vocabulary has {count} words")
    return settings

  def example(self, text):
    """Returns a text with <mask> or [MASK] for words; raises UserError without one."""
    text = self.tokenizer.name_mask(text)
    if self.tokenizer.mask_name not in text:
      raise UserError(f"{text!r}: write {MASK} or [MASK] for the word to predict")
    self._ids({"text": text})  # so that the error for a text that is too long names its line
    return {"text": text}

  def requests(self, examples):
    return Rows([self._ids(example) for example in examples])

  def predict(self, model, batch, settings):
    network = self.network(model)
    probs_BSV = jax.nn.softmax(model.logits(network.head(self.encode(network, batch))))
    # Special tokens are no words, nor are the rows that a table has more than the vocabulary.
    words_V = np.isin(np.arange(probs_BSV.shape[-1]), self.tokenizer.words)
    best_BSN, token_BSN = jax.lax.top_k(jnp.where(words_V, probs_BSV, -1), settings.top_k)
    return {"probs": best_BSN, "tokens": token_BSN}

  def outputs(self, examples, requests, predictions, settings):
    """Returns the text with the likeliest words, and `masks`: words and probabilities of each."""
    outputs = []
    for example, prediction in zip(examples, predictions):
      ids, masks = self._ids(example), []
      for place in (i for i, token in enumerate(ids) if token == self.tokenizer.mask):
        tokens, probs = prediction["tokens"][place].tolist(), prediction["probs"][place].tolist()
        ids[place] = tokens[0]
        words = [self.tokenizer.decode([token]) for token in tokens]
        masks.append([dict(word=word, prob=prob) for word, prob in zip(words, probs)])
      outputs.append(dict(text=self.tokenizer.decode(ids[self._frame - 1 :]), masks=masks))
    return outputs

  @property
  def _frame(self) -> int:
    """Returns the number of special tokens around a text."""
    return len(self.tokenizer.roles.first) + 1

  def _ids(self, example):
    ids = self.tokenizer.encode_marked(example["text"])
    if len(ids) > self.source_len - self._frame:
      raise UserError(
        f"{example['text'][:40]!r}...: {len(ids)} tokens are more than task.source_len="
        f"{self.source_len} less {self._frame} special ones: give less text around the mask"
      )
    return [*self.tokenizer.roles.first, *ids, self.tokenizer.roles.eos]

  def render(self, output, *, scores, colour):
    """Formats the filled text, and below it each mask's likeliest words with probabilities."""
    lines = [output["text"]]
    for number, words in enumerate(output["masks"], 1):
      named = ((x["word"] if x["word"].strip() else repr(x["word"]), x["prob"]) for x in words)
      lines.append(f"  {MASK} {number}: " + ", ".join(f"{word} {prob:.4f}" for word, prob in named))
    return "\n".join(lines)
