"""A tag for each word, by an encoder: parts of speech, named entities."""

import dataclasses
from collections.abc import Mapping

import jax
from absl import logging

from model import heads
from train.data import encoders, labelled, sources
from train.data.tokenizer import Tokenizer
from train.scoring import classes, scores
from train.scoring.colour import tagged
from train.tasks import requests
from train.tasks.classification import check_labels
from train.tasks.encoder import label_logits, label_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagging:
  """Learns `tags` given `words`; a word's tag is learned and read at its first token."""

  data: Mapping  # train/data/sources.py; examples have "words" and "tags"
  tokenizer: Tokenizer
  source_len: int  # tokens in a row, bos and eos included
  labels: tuple[str, ...] = ()  # (): those of the training split
  stride: int = 0  # long sentences in windows that begin so many tokens apart; 0: cut
  label_smoothing: float = 0.0
  pack: bool = True
  decode_batch: int = 32

  has_score = True
  target_len = 0

  label_field = "tags"

  @staticmethod
  def labels_of(example) -> list[str]:
    return example["tags"]

  @property
  def encoder(self) -> encoders.Tags:
    return encoders.Tags(self.tokenizer, self.labels)

  @property
  def loss_key(self) -> tuple:
    return ("tagging", self.labels, self.label_smoothing)

  @property
  def max_positions(self) -> int:
    return self.source_len

  def head(self, cfg, rngs):
    return heads.LabelHead(cfg, len(self.labels), pool="token", rngs=rngs)

  def examples(self, split):
    return sources.open_split(self.data, split, ("words", "tags"))

  def items(self, split):
    examples = self.examples(split)
    check_labels(split, (tag for one in examples for tag in one["tags"]), self.labels)
    return labelled.Labelled(examples, self.encoder, self.source_len, self.stride)

  def loss(self, model, batch, key):
    return label_loss(model, batch, key, self.label_smoothing)

  def settings(self, **changes):
    return requests.changed(requests.Settings(), "tagging", changes)

  def example(self, text):
    """Words with blanks between."""
    return {"words": text.split()}

  def requests(self, examples):
    return labelled.Labelled(labelled.Typed(examples), self.encoder, self.source_len, self.stride)

  def predict(self, model, batch, settings):
    del settings
    probs_BSC = jax.nn.softmax(label_logits(model, batch))
    return {"tags": probs_BSC.argmax(-1), "probs": probs_BSC.max(-1)}

  def outputs(self, examples, asked, predictions, settings):
    """`words`, their `tags` and `probs`; `text` is word/TAG. Each word is read in the window that
    sees most around it; one that was cut off, or has no tokens, gets "O" or the first tag."""
    del settings
    default = "O" if "O" in self.labels else self.labels[0]
    found = [
      dict(words=list(x["words"]), tags=[default] * len(x["words"]), probs=[0.0] * len(x["words"]))
      for x in examples
    ]
    encoded, read = self.encoder.encode(examples), 0
    for (number, window), prediction in zip(asked.index, predictions):
      places, _ = encoded[number].label
      for word, place in enumerate(places):
        if window.own_start <= place < window.own_stop:
          at = len(encoded[number].head) + place - window.start
          found[number]["tags"][word] = self.labels[prediction["tags"][at]]
          found[number]["probs"][word] = float(prediction["probs"][at])
          read += 1
    if cut := sum(len(x["words"]) for x in examples) - read:
      logging.warning("%d words were cut off or have no tokens: they get %s", cut, default)
    for one in found:
      one["text"] = " ".join(map("{}/{}".format, one["words"], one["tags"]))
    return found

  def render(self, output, *, scores, colour):
    """word/TAG, with `scores` and /probability; in colour entities or tags beside their words."""
    if colour:
      return tagged(output, self.labels, scores)
    if not scores:
      return output["text"]
    probs = map("{:.2f}".format, output["probs"])
    return " ".join(map("/".join, zip(output["words"], output["tags"], probs)))

  def score(self, outputs, examples):
    found, wanted = [x["tags"] for x in outputs], [list(x["tags"]) for x in examples]
    return scores.tags(found, wanted)

  def report(self, outputs, examples):
    return classes.of_tags([x["tags"] for x in outputs], [x["tags"] for x in examples])
