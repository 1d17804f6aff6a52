"""Source to target, by teacher forcing: translation, and any other pair of sequences."""

import dataclasses
import itertools
from collections.abc import Mapping

from absl import logging

from train.common.errors import NoSplit, UserError, choose
from train.data import items, sources
from train.data.source import read_many
from train.data.tokenizer import Tokenizer
from train.scoring import classes, scores
from train.tasks import seq2seq
from train.tasks.classification import unknown_labels

METRICS = {
  "texts": scores.texts,
  "classes": scores.classes,
  "numbers": scores.typed_numbers,
  "tags": scores.typed_tags,
  "answers": scores.answers,
}

# sacreBLEU's that need no download, and what each is for
BLEU_TOKENIZERS = {
  "13a": "texts with blanks between words",
  "intl": "the same, with the punctuation of all scripts",
  "zh": "Chinese, alone or among languages with blanks",
  "char": "texts without blanks",
  "none": "texts that are tokenised already",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
  """Learns `target` given `source` (a data spec's two fields)."""

  data: Mapping  # train/data/sources.py
  tokenizer: Tokenizer
  source_len: int  # tokens in a row, eos included; longer sentences are truncated and counted
  target_len: int
  pack: bool = True
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_chunks: int = 1  # parts of a row whose logits are made one after another, to save memory
  decoding: Mapping = dataclasses.field(default_factory=dict)
  decode_batch: int = 32  # sentences
  metric: str = "texts"  # texts (BLEU, chrF), or what text-to-text stands for: see METRICS
  lowercase_scores: bool = False
  bleu_tokenizer: str = "13a"  # see BLEU_TOKENIZERS
  piece_marker: str = ""  # "@@ ": the data is split into pieces already; scored and shown joined

  has_score = True

  def __post_init__(self):
    choose(METRICS, self.metric, "task.metric")
    choose(BLEU_TOKENIZERS, self.bleu_tokenizer, "task.bleu_tokenizer")

  def examples(self, split):
    return sources.open_split(self.data, split, ("source", "target"))

  def items(self, split):
    return items.Pairs(self.examples(split), self.tokenizer, self.source_len, self.target_len)

  def loss(self, model, batch, key):
    sums = seq2seq.loss(self, model, batch, key)
    if self.metric != "texts":  # accuracy is the score's, of whole outputs and in percent
      sums["right"] = sums.pop("accuracy")
    return sums

  @property
  def loss_key(self) -> tuple:
    return seq2seq.loss_key(self, "text to text")

  @property
  def max_positions(self) -> int:
    output = seq2seq.longest_output(self.settings(), self.source_len)
    return max(self.source_len, self.target_len, len(self.tokenizer.roles.target_first) + output)

  def settings(self, **changes) -> seq2seq.Decoding:
    return seq2seq.settings(self.decoding, "translation", changes)

  def example(self, text):
    """A source; UserError if it does not say in which of the model's languages it is wanted."""
    languages = self.tokenizer.languages
    if languages and not text.startswith(tuple(f"{name} " for name in languages)):
      raise UserError(f"{text!r}: begin with the language wanted, one of {', '.join(languages)}")
    return {"source": text}

  def requests(self, examples):
    rows = self.tokenizer.encode_sources([example["source"] for example in examples])
    return seq2seq.cut(rows, self.source_len, self.tokenizer.roles)

  def predict(self, model, batch, settings):
    return seq2seq.predict(model, batch, settings, self.tokenizer.roles)

  def outputs(self, examples, asked, predictions, settings):
    del examples, asked, settings  # one prediction each
    return [
      seq2seq.output(prediction, lambda ids: self._joined(self.tokenizer.decode(ids)))
      for prediction in predictions
    ]

  def render(self, output, *, scores, colour):
    return seq2seq.render(output, scores=scores, colour=colour)

  def score(self, outputs, examples):
    found = [output["text"] for output in outputs]
    wanted = [self._joined(example["target"]) for example in examples]
    if self.metric == "answers":  # all that are right, where the source has several
      wanted = [
        [answer["text"] for answer in example["answers"]] if "answers" in example else [target]
        for example, target in zip(examples, wanted)
      ]
    if self.metric != "texts":
      return METRICS[self.metric](found, wanted)
    return scores.texts(
      found, wanted, tokenize=self.bleu_tokenizer, lowercase=self.lowercase_scores
    )

  def report(self, outputs, examples):
    """Of text-to-text classes and tags; labels that training has not are logged, and how often."""
    if self.metric not in ("classes", "tags"):
      return None
    found, wanted = [x["text"] for x in outputs], [x["target"] for x in examples]
    of = classes.of_texts
    if self.metric == "tags":
      of, (found, wanted) = classes.of_typed_tags, scores.split_tags(found, wanted)
    told = of(found, wanted)
    try:
      training = self.examples("train")
    except NoSplit:
      return told
    known = {x["target"] for x in read_many(training, range(len(training)))}
    if self.metric == "tags":
      known = {tag for text in known for tag in text.split()}
      wanted = itertools.chain.from_iterable(wanted)
    if (unseen := unknown_labels(wanted, known))[0]:
      logging.warning(
        "%d labels are none of the training split's %d: %s", unseen[0], len(known), unseen[1]
      )
    return told

  def _joined(self, text):
    return text.replace(self.piece_marker, "") if self.piece_marker else text
