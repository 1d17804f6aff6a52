"""Source to target, by teacher forcing: translation, and any other pair of sequences."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from model import decoding
from train import losses
from train.data import batches, packing, sources
from train.data.tokenizer import BOS, EOS, PAD, Tokenizer
from train.errors import UserError

SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How outputs are searched; static under jit. temperature 0: beam search (greedy with 1 beam)."""

  beam: int = 4
  length_penalty: float = 0.6
  temperature: float = 0.0  # above 0: sampling
  top_k: int = 0  # 0: all
  top_p: float = 1.0
  nbest: int = 1
  max_len_ratio: float = 1.0  # an output has at most ratio * source + extra tokens, eos included
  max_len_extra: int = 50
  seed: int = 0

  def __post_init__(self):
    if self.beam < 1 or self.nbest < 1 or (not self.temperature and self.nbest > self.beam):
      raise UserError(f"nbest {self.nbest} and beam {self.beam}: 1 <= nbest <= beam")
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise UserError("temperature and top_k must be at least 0, top_p in (0, 1]")


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
  decoding: Mapping = dataclasses.field(default_factory=dict)
  decode_batch: int = 32  # sentences
  lowercase_scores: bool = False
  tokenized_scores: bool = False  # the data is tokenised already: BLEU with tokenize="none"
  piece_marker: str = ""  # "@@ ": the data is split into pieces already; scored and shown joined

  def batches(self, split, batch_size, seed, workers=0):
    rows = self._rows(split, batch_size)
    return batches.Batches(*rows.pop("data"), seed=seed, workers=workers, **rows)

  def eval_batches(self, split, batch_size):
    rows = self._rows(split, batch_size)
    return batches.eval_batches(*rows.pop("data"), **rows)

  def _rows(self, split, batch_size):
    return dict(
      data=(self.examples(split), self.tokenizer),
      batch_size=batch_size,
      source_len=self.source_len,
      target_len=self.target_len,
      pack=self.pack,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )

  def examples(self, split):
    return sources.open_split(self.data, split)

  def loss(self, model, batch, key):
    encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
    memory_BSD = model.encode(
      batch["source"], batch["source_segments"], batch["source_positions"], encoder_key
    )
    x_BTD = model.decode(
      batch["inputs"],
      memory_BSD,
      batch["source_segments"],
      batch["segments"],
      batch["positions"],
      decoder_key,
    )
    return losses.cross_entropy(
      model.logits(x_BTD),
      batch["labels"],
      batch["weights"],
      label_smoothing=self.label_smoothing,
      z_loss=self.z_loss,
    )

  @property
  def longest(self) -> int:
    """The most positions that the model must tell apart."""
    how = self.settings()
    output = math.ceil(how.max_len_ratio * self.source_len + how.max_len_extra)
    return max(self.source_len, self.target_len, output)

  def settings(self, **changes) -> Decoding:
    """The config's way of decoding with `changes`."""
    return Decoding(**{**self.decoding, **changes})

  def predict_batches(self, inputs, batch_size=None):
    """Sentences sorted by length, each in the smallest of a few widths that holds it."""
    rows = batch_size or self.decode_batch
    whole = self.tokenizer.encode_batch(list(inputs))
    ids = [s[: self.source_len - 1] + [EOS] for s in whole]
    if cut := sum(len(s) >= self.source_len for s in whole):
      logging.warning(
        "of %d inputs, %d are truncated to task.source_len=%d", len(ids), cut, self.source_len
      )
    widths = [n for n in (8, 16, 32, 64, 128, 256, 512, 1024) if n < self.source_len]
    for width, members in packing.bucketed([len(s) for s in ids], [*widths, self.source_len], rows):
      source = np.full((rows, width), PAD, np.int32)
      for row, index in enumerate(members):
        if index >= 0:
          source[row, : len(ids[index])] = ids[index]
      yield dict(source=source, row=np.array(members, np.int32))

  def predict(self, model, batch, settings: Decoding):
    source_BS = batch["source"]
    segments_BS = (source_BS != PAD).astype(np.int32)
    limit_B = settings.max_len_ratio * segments_BS.sum(1) + settings.max_len_extra
    max_len = math.ceil(settings.max_len_ratio * source_BS.shape[1] + settings.max_len_extra)
    memory_BSD = model.encode(source_BS)
    cache = model.init_cache(len(source_BS), max_len, memory_BSD, segments_BS)
    common = dict(max_len=max_len, limit_B=limit_B.astype(np.int32), bos=BOS, eos=EOS, pad=PAD)
    if settings.temperature:
      found = decoding.sample(
        model.decode_step,
        cache,
        jax.random.key(settings.seed),
        ids_B=batch["row"],
        num_samples=settings.nbest,
        temperature=settings.temperature,
        top_k=settings.top_k or None,
        top_p=settings.top_p,
        **common,
      )
    elif settings.beam == 1:
      found = decoding.greedy(model.decode_step, cache, **common)
    else:
      found = decoding.beam_search(
        model.decode_step,
        cache,
        num_beams=settings.beam,
        num_return=settings.nbest,
        length_penalty=settings.length_penalty,
        **common,
      )
    return dict(tokens=found.tokens, scores=found.scores, lengths=found.lengths, row=batch["row"])

  def output(self, prediction):
    texts = [self._joined(self.tokenizer.decode(ids)) for ids in prediction["tokens"].tolist()]
    found = [
      dict(text=text, score=score)
      for text, score in zip(texts, prediction["scores"].tolist())
      if math.isfinite(score)
    ]
    return dict(text=found[0]["text"], score=found[0]["score"], nbest=found)

  def score(self, outputs, examples):
    import sacrebleu  # half a second

    texts = [output["text"] for output in outputs]
    wanted = [self._joined(example["target"]) for example in examples]
    tokenize = "none" if self.tokenized_scores else "13a"
    bleu = sacrebleu.BLEU(tokenize=tokenize, lowercase=self.lowercase_scores, force=True)
    chrf = sacrebleu.CHRF(lowercase=self.lowercase_scores)
    exact = [a == b for a, b in zip(texts, wanted)]
    return dict(
      bleu=bleu.corpus_score(texts, [wanted]).score,
      bleu_signature=str(bleu.get_signature()),
      chrf=chrf.corpus_score(texts, [wanted]).score,
      chrf_signature=str(chrf.get_signature()),
      exact_match=100.0 * float(np.mean(exact)),
    )

  def _joined(self, text):
    return text.replace(self.piece_marker, "") if self.piece_marker else text
