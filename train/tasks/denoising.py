"""Denoising documents with an encoder-decoder: spans, prefix LM, BERT-style, deshuffling (T5)."""

import dataclasses
from collections.abc import Mapping

from train.common.errors import UserError
from train.data import documents, sources
from train.data.corruption import Corruption
from train.data.tokenizer import Tokenizer
from train.tasks import seq2seq

MASKED = ("mask", "bert")
SPANNED = ("spans", "iid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising:
  """Learns a window's target from its corrupted source (Raffel et al. 2020, section 3.3)."""

  data: Mapping  # train/data/sources.py; examples have a "text"
  tokenizer: Tokenizer
  length: int  # tokens of text in a window
  source_len: int
  target_len: int
  style: str = "spans"  # train/data/corruption.py
  rate: float = 0.15
  mean_span: float = 3.0
  cross_documents: bool = False  # windows run over the ends of documents
  seed: int = 0  # of the corruption
  pack: bool = True
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_chunks: int = 1  # parts of a row whose logits are made one after another, to save memory
  decoding: Mapping = dataclasses.field(default_factory=dict)
  decode_batch: int = 32

  has_score = False

  def __post_init__(self):
    source, target = documents.Denoise(self.corruption, self.tokenizer.roles).room(self.length)
    if source > self.source_len or target > self.target_len:
      raise UserError(
        f"task.length={self.length} tokens of text can become {source} source and {target} target"
        f" tokens: more than task.source_len={self.source_len} or target_len={self.target_len}"
      )

  @property
  def corruption(self) -> Corruption:
    tokenizer = self.tokenizer
    mask = tokenizer.mask if self.style in MASKED else 0
    if self.style in SPANNED and not tokenizer.sentinels:
      raise UserError(
        f"task.style={self.style!r} needs sentinels and the vocabulary has none: train it with"
        " tokenizer.sentinels=100"
      )
    return Corruption(
      self.style, self.rate, self.mean_span, mask, tokenizer.sentinels, tokenizer.words
    )

  @property
  def loss_key(self) -> tuple:
    return seq2seq.loss_key(self, "text to text")

  @property
  def max_positions(self) -> int:
    output = seq2seq.longest_output(self.settings(), self.source_len)
    return max(self.source_len, self.target_len, len(self.tokenizer.roles.target_first) + output)

  def examples(self, split):
    return sources.open_split(self.data, split, ("text",))

  def items(self, split):
    tokens = documents.Tokens(self.examples(split), self.tokenizer)
    objective = documents.Denoise(self.corruption, self.tokenizer.roles)
    return documents.Windows(tokens, self.length, objective, self.cross_documents, self.seed)

  def loss(self, model, batch, key):
    return seq2seq.loss(self, model, batch, key)

  def settings(self, **changes):
    return seq2seq.settings(self.decoding, "denoising", changes)

  def example(self, text):
    """A text where <extra_0>, ... or <mask> stand for what is hidden; a prefix LM's beginning."""
    return {"text": text}

  def requests(self, examples):
    rows = [self.tokenizer.encode_marked(example["text"]) for example in examples]
    return seq2seq.cut(rows, self.source_len, self.tokenizer.roles)

  def predict(self, model, batch, settings):
    return seq2seq.predict(model, batch, settings, self.tokenizer.roles)

  def outputs(self, examples, asked, predictions, settings):
    """The target text; a prefix LM's behind what was given."""
    del asked, settings
    if self.style == "prefix":
      return [
        seq2seq.continued(prediction, self.tokenizer, example["text"])
        for example, prediction in zip(examples, predictions)
      ]
    return [seq2seq.output(prediction, self.tokenizer.decode) for prediction in predictions]

  def render(self, output, *, scores, colour):
    return seq2seq.render(output, scores=scores, colour=colour)

  def score(self, outputs, examples):
    raise UserError("denoising has a loss and no score: set evaluate.decode_every=0")
