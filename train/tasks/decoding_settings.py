"""Defines the settings of a search for outputs."""

import dataclasses
import math

from model import decoding
from model.constraints import Constraints
from train.common.errors import UserError, choose
from train.common.intervals import SEEDS
from train.tasks.base import Settings, option

LEAST_TEMPERATURE = 1e-4  # logits divided by less leave float32
GENERATIONS = ("ours", "transformers")
# Searched at a time on a CPU, as more keys and values leave its caches: 64 take 10.8 seconds of its
# cores, 128 11.0 and 256 14.0 (1,000 sentences of Multi30k, 4 beams).
CPU_HYPOTHESES = 64
MOST_TOKENS = 2**24  # rows x hypotheses x length of one decoding batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding(Settings):
  """The search for outputs: by beams (greedily with one), or by sampling with a temperature."""

  beam: int = option(4, "beams; 1: greedy", "[1, 1000]")
  length_penalty: float = option(
    0.6, "exponent of the length penalty (Wu et al. 2016); 0: none", "[-10, 10]"
  )
  penalty: str = option(
    "wu", f"formula that is raised to length_penalty: {', '.join(decoding.PENALTIES)}"
  )
  stop: str = option("exact", f"when beam search ends: {', '.join(decoding.STOPS)}")
  temperature: float = option(0.0, "above 0: sampling in place of beams", "[0, 1000]")
  top_k: int = option(0, "sampling from so many of the likeliest tokens; 0: from all", "[0, inf)")
  top_p: float = option(
    1.0, "sampling from the likeliest tokens of this total probability", "(0, 1]"
  )
  nbest: int = option(1, "outputs for each input", "[1, 1000]")
  max_len_ratio: float = option(
    1.0, "tokens of an output for each token of its source, at most", "[0, 1000]"
  )
  max_len_extra: int = option(50, "additional tokens of an output, eos included", "[0, 1000000]")
  max_len_total: int = option(
    0, "tokens of a prompt and its output together, at most; 0: any", "[0, 1000000]"
  )
  min_len: int = option(0, "tokens of an output before it may end", "[0, 1000000]")
  no_repeat_ngram: int = option(
    0, "no so many tokens in a row occur twice in an output; 0: they may", "[0, 1000]"
  )
  repetition_penalty: float = option(
    1.0, "above 1: makes tokens that an output has less likely (Keskar et al. 2019)", "(0, 1000]"
  )
  banned: tuple = option((), "sequences of ids that no output has")
  begin_banned: tuple = option((), "ids that no output begins with")
  forced_last: tuple = option(
    (), "ids one of which ends a longest output (generation=transformers)"
  )
  generation: str = option(
    "ours",
    "whose search it is; transformers: token for token that of its generate, where an output of the"
    " greatest length just ends",
  )
  seed: int = option(0, "seed of sampling", SEEDS)

  def __post_init__(self):
    super().__post_init__()
    choose(dict.fromkeys(GENERATIONS), self.generation, "decoding.generation")
    if self.strict and not self.temperature and self.beam > 1 and self.penalty != "length":
      raise UserError(
        f"generation is transformers and penalty {self.penalty}: there is only penalty=length"
      )
    if not self.temperature and self.nbest > self.beam:
      raise UserError(
        f"nbest is {self.nbest} and beam {self.beam}: a search returns at most as many outputs as"
        f" it has beams; set beam to {self.nbest} or more"
      )
    if 0 < self.temperature < LEAST_TEMPERATURE:
      raise UserError(
        f"temperature is {self.temperature}: expects 0, or {LEAST_TEMPERATURE} or more; beam=1"
        " takes the likeliest token"
      )
    if not self.max_len_ratio and not self.max_len_extra:
      raise UserError("max_len_ratio and max_len_extra are 0: no output would have a token")
    choose(decoding.PENALTIES, self.penalty, "decoding.penalty")
    choose(dict.fromkeys(decoding.STOPS), self.stop, "decoding.stop")

  @property
  def strict(self) -> bool:
    """Returns whether outputs are those of transformers' generate."""
    return self.generation == "transformers"

  @property
  def rules(self) -> Constraints:
    """Returns which tokens the search may not choose."""
    last = self.forced_last if self.strict else ()
    return Constraints(
      self.min_len,
      self.no_repeat_ngram,
      self.repetition_penalty,
      self.banned,
      self.begin_banned,
      last,
    )

  def tag(self):
    search = ["sampled"] if self.temperature else [f"beam{self.beam}"]
    return [*search, self.generation] if self.strict else search

  def check_size(self, rows: int, source_len: int) -> None:
    """Raises UserError where a batch of `rows` requests would hold more than MOST_TOKENS."""
    tokens = rows * max(self.beam, self.nbest) * self.longest(source_len)
    if tokens > MOST_TOKENS:
      raise UserError(
        f"decoding {rows} rows with beam {self.beam}, nbest {self.nbest} and outputs of up to"
        f" {self.longest(source_len):,} tokens takes {tokens:,} tokens at a time, more than"
        f" {MOST_TOKENS:,}: lower max_len_ratio, max_len_extra, beam or the rows (--batch_size,"
        " task.decode_batch)"
      )

  def longest(self, source_len: int) -> int:
    """Returns the most tokens of an output for a source of at most `source_len` tokens."""
    longest = math.ceil(self.max_len_ratio * source_len + self.max_len_extra)
    return min(longest, max(self.max_len_total - 1, 1)) if self.max_len_total else longest

  def rows_on_cpu(self) -> int:
    """Returns the requests whose hypotheses a CPU searches at a time."""
    return max(CPU_HYPOTHESES // max(1 if self.temperature else self.beam, self.nbest), 1)
