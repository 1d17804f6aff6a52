"""Learns a target text given a source text: translation, and any other pair of sequences."""

import dataclasses

from train.common.errors import UserError, choose
from train.data import items, languages
from train.data.special_tokens import split_language
from train.scoring import scores
from train.tasks.seq2seq import DecoderTask, output, truncated

# The tokenizers of sacreBLEU that need no download, and the texts that each is for.
BLEU_TOKENIZERS = {
  "13a": "texts with blanks between words",
  "intl": "the same, with the punctuation of all scripts",
  "zh": "Chinese, alone or among languages with blanks",
  "char": "texts without blanks",
  "none": "texts that are tokenised already",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTask(DecoderTask):
  """Learns `target` given `source` (a data spec's two fields).

  Where the vocabulary has tokens of languages, an example may have the fields source_lang and
  target_lang too. The task's own are those of the other examples; "": as the tokenizer has them.
  """

  source_len: int = 64  # tokens in a row, eos included; the log reports how many are truncated
  target_len: int = 64
  decode_batch: int = 64
  source_lang: str = ""
  target_lang: str = ""

  columns = ("source", "target")
  streams = True
  has_score = True

  def __post_init__(self):
    super().__post_init__()
    if self.source_lang or self.target_lang:
      roles = languages.frame(self.tokenizer, self.source_lang, self.target_lang)
      if roles.languages:  # else a source begins with its target's, which a source may name itself
        object.__setattr__(self, "tokenizer", self.tokenizer.framed(roles))

  def directed(self, source_lang="", target_lang=""):
    given = dict(source_lang=source_lang, target_lang=target_lang)
    return dataclasses.replace(self, **{key: value for key, value in given.items() if value})

  def items(self, split):
    return items.Pairs(
      self.examples(split), self.tokenizer, self.source_len, self.target_len, self.target_lang
    )

  def example(self, text):
    return {"source": text}

  def requests(self, examples):
    rows = self.tokenizer.encode_sources([example["source"] for example in examples])
    free = self.decoding.strict and not any(x.get("target_lang") for x in examples)
    frames = languages.frames(self.tokenizer, examples, self.target_lang, needed=not free)
    return truncated(rows, self.source_len, frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(PairTask):
  """Pairs whose outputs are scored by BLEU and chrF."""

  label_smoothing: float = 0.1
  lowercase_scores: bool = False
  bleu_tokenizer: str = "13a"  # see BLEU_TOKENIZERS
  piece_marker: str = ""  # "@@ ": the data is split into pieces; outputs are joined again

  def __post_init__(self):
    super().__post_init__()
    choose(BLEU_TOKENIZERS, self.bleu_tokenizer, "task.bleu_tokenizer")

  @classmethod
  def score_names(cls, section):
    return scores.NAMES["texts"]

  def example(self, text):
    """Returns a text as a source; raises UserError where the model translates into several
    languages and the text names none."""
    tokenizer = self.tokenizer
    marks = {} if tokenizer.roles.languages else tokenizer.languages
    mark, _ = split_language(text, tokenizer.specials)
    if marks and not self.target_lang and languages.code(mark) not in marks:
      names = ", ".join(tokenizer.render_tokens(marks.values()))
      raise UserError(
        f"{text!r}: begin with the target language, one of {names}, or name it by --target_lang"
      )
    return {"source": text}

  def outputs(self, examples, requests, predictions, settings):
    return [output(x, lambda ids: self._joined(self.tokenizer.decode(ids))) for x in predictions]

  def score(self, outputs, examples):
    predictions = [output["text"] for output in outputs]
    references = [self._joined(example["target"]) for example in examples]
    return scores.texts(predictions, references, **self.bleu_options())

  def bleu_options(self) -> dict:
    """Returns sacrebleu's options for this task's BLEU."""
    return dict(tokenize=self.bleu_tokenizer, lowercase=self.lowercase_scores)

  def _joined(self, text):
    return text.replace(self.piece_marker, "") if self.piece_marker else text
