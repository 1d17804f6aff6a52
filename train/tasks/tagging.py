"""Predicts a tag for each word, by an encoder: parts of speech, named entities."""

import dataclasses
import itertools

import jax
from absl import logging

from train.data import label_layout
from train.scoring import classes, schemes, scores
from train.scoring.colour import colour_tags
from train.tasks.base import HuggingFace
from train.tasks.windows import EncoderTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagging(EncoderTask):
  """Learns `tags` given `words`; a word's tag is learned and read at its first token."""

  labels: tuple[str, ...] = ()  # (): those of the training split
  stride: int = 96
  label_smoothing: float = 0.0
  transform: str = "none"  # layers before the labels, see heads.LabelHead
  head_activation: str = "gelu"  # of the transform

  columns = ("words", "tags")
  label_column = "tags"
  hf_kind = "tagging"
  per_token = True

  @property
  def encoder(self) -> label_layout.Tags:
    return label_layout.Tags(self.tokenizer, self.labels)

  @property
  def loss_key(self):
    return ("tagging", self.labels, self.label_smoothing, self.transform, self.head_activation)

  @classmethod
  def score_names(cls, section):
    return scores.NAMES["tags"]

  def items(self, split):
    rows = [example["tags"] for example in self.examples(split)]
    if split == "train":
      logging.info(schemes.describe(rows))
    elif schemes.has_scheme(self.labels) and not schemes.has_scheme(itertools.chain(*rows)):
      logging.warning(f"{split}: {schemes.describe(rows)}")
    return super().items(split)

  def check_metric(self, metric):
    schemes.check_metric(metric, self.labels)

  def head(self, cfg, rngs):
    return self.token_head(cfg, len(self.labels), rngs)

  def example(self, text):
    """Returns the words of a text with blanks between."""
    return {"words": text.split()}

  def predictions(self, logits_BSC):
    probs_BSC = jax.nn.softmax(logits_BSC)
    return {"tags": probs_BSC.argmax(-1), "probs": probs_BSC.max(-1)}

  def outputs(self, examples, requests, predictions, settings):
    """Returns `words`, their `tags` and `probs`, and word/TAG as `text`.

    Each word is read in the window that sees most around it. A word that was cut off or has no
    tokens gets "O", or the first tag.
    """
    default = "O" if "O" in self.labels else self.labels[0]
    outputs = [
      dict(words=list(x["words"]), tags=[default] * len(x["words"]), probs=[0.0] * len(x["words"]))
      for x in examples
    ]
    encoded, read = self.encoder.encode(examples), 0
    for (number, window), prediction in zip(requests.index, predictions):
      places, _ = encoded[number].label
      for word, place in enumerate(places):
        if window.own_start <= place < window.own_stop:
          at = len(encoded[number].head) + place - window.start
          outputs[number]["tags"][word] = self.labels[prediction["tags"][at]]
          outputs[number]["probs"][word] = float(prediction["probs"][at])
          read += 1
    if cut := sum(len(x["words"]) for x in examples) - read:
      logging.warning("%d words were cut off or have no tokens: they get %s", cut, default)
    for output in outputs:
      output["text"] = " ".join(map("{}/{}".format, output["words"], output["tags"]))
    return outputs

  def render(self, output, *, scores, colour):
    """Formats word/TAG, with `scores` word/TAG/probability; in colour, tags beside their words."""
    if colour:
      return colour_tags(output, self.labels, scores)
    if not scores:
      return output["text"]
    probs = map("{:.2f}".format, output["probs"])
    return " ".join(map("/".join, zip(output["words"], output["tags"], probs)))

  def score(self, outputs, examples):
    return scores.tags([x["tags"] for x in outputs], [list(x["tags"]) for x in examples])

  def report(self, outputs, examples):
    return classes.tag_report([x["tags"] for x in outputs], [x["tags"] for x in examples])

  def hugging_face(self):
    activation, transform = self.head_activation, self.transform
    return HuggingFace("tagging", self.labels, activation, transform=transform)
