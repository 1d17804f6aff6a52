"""Denoises documents with an encoder-decoder: spans, prefix LM, BERT-style, deshuffling (T5), and
the denoisers of UL2 with their modes."""

import dataclasses
import functools
from collections.abc import Mapping

from train.common.errors import UserError
from train.data import documents
from train.data.corruption import Corruption
from train.data.roles import MASK, SPECIALS, Roles
from train.tasks.base import BPE_WITH_MASK
from train.tasks.decoding_settings import Decoding
from train.tasks.seq2seq import DecoderTask, output, truncated

GREEDY = Decoding(beam=1, length_penalty=0.0, max_len_extra=20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(DecoderTask):
  """Learns a window's target from its corrupted source (Raffel et al. 2020, section 3.3)."""

  length: int = 128  # tokens of text in a window
  source_len: int = 128
  target_len: int = 128
  style: str = "spans"  # see train/data/corruption.py
  # A special token before each source, which names its denoiser in a mixture: "[S]" (Tay et al.
  # 2022, section 3.1).
  mode: str = ""
  rate: float = 0.15
  mean_span: float = 3.0
  cross_documents: bool = False  # windows run over the ends of documents
  seed: int = 0  # of the corruption
  decoding: Mapping | Decoding = GREEDY

  default_tokenizer = BPE_WITH_MASK | dict(sentinels=100)
  streams = True

  def __post_init__(self):
    super().__post_init__()
    source, target = self.objective.max_lengths(self.length)
    if source > self.source_len or target > self.target_len:
      raise UserError(
        f"task.length={self.length} tokens of text can become {source} source and {target} target"
        f" tokens: more than task.source_len={self.source_len} or target_len={self.target_len}"
      )

  @property
  def objective(self) -> documents.Denoise:
    """Returns how windows become items; raises UserError if the vocabulary lacks special tokens."""
    tokenizer = self.tokenizer
    mask = tokenizer.mask if self.style in ("mask", "bert") else 0
    if self.style in ("spans", "iid") and not tokenizer.sentinels:
      raise UserError(
        f"task.style={self.style!r} needs sentinels and the vocabulary has none: train it with"
        " tokenizer.sentinels=100"
      )
    corruption = Corruption(
      self.style, self.rate, self.mean_span, mask, tokenizer.sentinels, tokenizer.words
    )
    return documents.Denoise(corruption, self._roles(self.mode))

  def _roles(self, mode: str) -> Roles:
    """Returns the roles of a vocabulary's tokens where sources begin with a mode."""
    roles = self.tokenizer.roles
    first = (*roles.source_first, self.tokenizer.id(mode)) if mode else roles.source_first
    return dataclasses.replace(roles, source_first=first)

  def _split_mode(self, text: str) -> tuple[str, str]:
    """Returns the mode of a text, by default the task's, and the text without its name."""
    names = self.tokenizer.specials.keys() - {*SPECIALS, MASK} if self.mode else ()
    for name in names:
      if text.startswith(name) and self.tokenizer.specials[name] not in self.tokenizer.sentinels:
        return name, text.removeprefix(name).removeprefix(" ")
    return self.mode, text

  def items(self, split):
    tokens = documents.Tokens(self.examples(split), self.tokenizer)
    return documents.Windows(tokens, self.length, self.objective, self.cross_documents, self.seed)

  def requests(self, examples):
    """Returns texts with <extra_0>, ... or <mask> for hidden spans, or the beginning of a text for
    a prefix LM. The name of a mode may stand before a text: "[S] Once upon a time"."""
    pairs = [self._split_mode(example["text"]) for example in examples]
    rows = [self.tokenizer.encode_marked(text) for _, text in pairs]
    return truncated(rows, self.source_len, [self._roles(mode) for mode, _ in pairs])

  def outputs(self, examples, requests, predictions, settings):
    """Returns the target texts with their sentinels, those of a prefix LM with the beginning in
    front."""
    if self.style in ("prefix", "suffix"):
      texts = [{"text": self._split_mode(example["text"])[1]} for example in examples]
      return self.continuations(texts, predictions)
    decode = functools.partial(self.tokenizer.decode, specials=True)
    return [output(prediction, decode) for prediction in predictions]
