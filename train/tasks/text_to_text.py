"""Learns labels as text (text to text: Raffel et al. 2020, section 2.4): a decoder writes them."""

import dataclasses
import itertools
from collections.abc import Mapping

from absl import logging

from train.common.errors import NoSplit, choose
from train.data.source import read_all
from train.scoring import classes, schemes, scores
from train.tasks.decoding_settings import Decoding
from train.tasks.translation import PairTask
from train.tasks.windows import check_numbers, unknown_labels

KINDS = {
  "classes": scores.classes,
  "numbers": scores.numbers_as_text,
  "tags": scores.tags_as_text,
  "answers": scores.answers,
  "summaries": scores.summaries,
}
# kind -> how outputs are reported, and the labels of a text
REPORTS = {
  "classes": (classes.text_class_report, lambda text: [text]),
  "tags": (classes.text_tag_report, str.split),
}
SHORT = Decoding(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToText(PairTask):
  """Pairs whose targets are labels of a kind, or summaries, and are scored as such."""

  kind: str = "classes"  # see KINDS
  source_len: int = 128
  target_len: int = 32
  decoding: Mapping | Decoding = SHORT

  def __post_init__(self):
    super().__post_init__()
    choose(KINDS, self.kind, "task.kind")

  @property
  def streams(self) -> bool:
    return self.kind == "summaries"  # the labels of other kinds are checked

  def items(self, split):
    if self.kind == "numbers":
      check_numbers(self.data, split, (example["target"] for example in self.examples(split)))
    return super().items(split)

  @classmethod
  def score_names(cls, section):
    return scores.NAMES[section["kind"]]

  def score(self, outputs, examples):
    references = [example["target"] for example in examples]
    if self.kind == "answers":  # all right answers, where the source has several
      references = [
        [answer["text"] for answer in example["answers"]] if "answers" in example else [target]
        for example, target in zip(examples, references)
      ]
    return KINDS[self.kind]([output["text"] for output in outputs], references)

  def check_metric(self, metric):
    if self.kind == "tags" and metric in schemes.ENTITIES:
      schemes.check_metric(metric, self._known_labels(str.split))

  def _known_labels(self, labels_of) -> set[str]:
    """Returns the labels of the training split; raises NoSplit if there is none."""
    targets = {example["target"] for example in read_all(self.examples("train"))}
    return {label for text in targets for label in labels_of(text)}

  def report(self, outputs, examples):
    """Returns the report of classes or tags; the log names labels that training does not have."""
    if self.kind not in REPORTS:
      return None
    make_report, labels_of = REPORTS[self.kind]
    references = [example["target"] for example in examples]
    report = make_report([output["text"] for output in outputs], references)
    try:
      known = self._known_labels(labels_of)
    except NoSplit:
      return report
    count, commonest = unknown_labels(itertools.chain(*map(labels_of, references)), known)
    if count:
      logging.warning(f"{count} labels are none of the training split's {len(known)}: {commonest}")
    return report
