"""Searches against numpy: enumeration, a beam search written from its definition, chains by eye."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.decoding import Limits, beam_search, greedy, length_weights, sample
from model.search import Cache, pick, top_of_blocks

PAD, BOS, EOS, A, B, C = range(6)
MAX_LEN = 6
ALPHAS = [0.0, 0.6, 1.0, -1.0]


class Remembering:
  """Logits from a table, at a hash of all tokens so far and the row's salt: each row a model."""

  def __init__(self, vocab, max_len=MAX_LEN):
    rng = np.random.default_rng(0)
    self.weights = rng.integers(1, 1000, max_len).astype(np.int32)
    self.table = (1.5 * rng.normal(size=(997, vocab))).astype(np.float32)
    self.table[:, [PAD, BOS]] += 2  # tempting, and never to be taken
    self.table[:, EOS] += 1
    self.max_len = max_len

  def cache(self, salts):
    history = np.zeros((len(salts), 1, self.max_len), np.int32)
    moving = {"history": history, "length": np.zeros((len(salts), 1), np.int32)}
    return Cache(moving, [np.array(salts, np.int32)])

  def step(self, token_BN, cache):
    history, length = cache.moving["history"], cache.moving["length"]
    here = jnp.arange(self.max_len) == length[..., None]
    history = jnp.where(here, token_BN[..., None], history)
    place_BN = (cache.fixed[0][:, None] + history @ self.weights) % len(self.table)
    moving = {"history": history, "length": length + 1}
    return jnp.asarray(self.table)[place_BN], cache._replace(moving=moving)

  def log_probs(self, tokens, salt):
    """What follows bos and the tokens, float64 [V]."""
    history = np.array([BOS, *tokens])
    place = (salt + history @ self.weights[: len(history)]) % len(self.table)
    row = self.table[place].astype(np.float64)
    return row - np.log(np.exp(row).sum())

  def log_prob(self, tokens, salt):
    return sum(self.log_probs(tokens[:i], salt)[token] for i, token in enumerate(tokens))


MODEL = Remembering(9)
SALTS = range(0, 960, 24)
LIMITS = [i % (MAX_LEN + 2) for i in range(len(SALTS))]  # 0 and 7 are clipped to 1 and 6


class Chain:
  """The next token depends on the last one only, by the table of logits in the cache."""

  @staticmethod
  def step(token_BN, cache):
    return pick(cache.fixed, token_BN), cache


def chain(table, rows=1):
  return Cache({}, np.repeat(np.float32(table)[None], rows, axis=0))


def probabilities(**rows):
  """A chain's table from its rows such as bos={A: 0.6, B: 0.4}; what is not given has none."""
  table = np.full((6, 6), 1e-30)
  for name, following in rows.items():
    for token, probability in following.items():
      table[{"bos": BOS, "a": A, "b": B, "c": C}[name], token] = probability
  return np.log(table)


# compiling is most of this file's time: a quarter of it with these (jaxlib 0.11 has not the second)
QUICK = {"xla_backend_optimization_level": 0}
if jax.__version__.startswith("0.10."):
  QUICK["xla_cpu_use_fusion_emitters"] = False


@functools.cache
def compiled(search, step, max_len, bos, eos, pad, **settings):
  def run(cache, limit_B, **arrays):
    return search(step, cache, Limits(max_len, limit_B, bos, eos, pad), **settings, **arrays)

  return jax.jit(run, compiler_options=QUICK)


def run(search, model, cache, limits, max_len=MAX_LEN, bos=BOS, eos=EOS, pad=PAD, **settings):
  """The search under jit, as numpy; arrays among the settings are traced."""
  arrays = {k: v for k, v in settings.items() if isinstance(v, jax.Array)}
  settings = {k: v for k, v in settings.items() if k not in arrays}
  jitted = compiled(search, model.step, max_len, bos, eos, pad, **settings)
  return jax.tree.map(np.asarray, jitted(cache, limit_B=jnp.array(limits, jnp.int32), **arrays))


def run_sample(model, cache, limits, ids=None, seed=0, **settings):
  ids_B = jnp.array(range(len(limits)) if ids is None else ids)
  return run(sample, model, cache, limits, ids_B=ids_B, key=jax.random.key(seed), **settings)


SEARCHES = {
  "greedy": functools.partial(run, greedy),
  "sample": functools.partial(run_sample, num_samples=3),
  "beam": functools.partial(run, beam_search, num_beams=3, length_penalty=0.6, num_return=3),
}
two_beams = functools.partial(run, beam_search, Chain, num_beams=2, num_return=2)


def clipped(limit):
  return min(max(limit, 1), MAX_LEN)


def words(found, row, n=0):
  return found.tokens[row, n, : found.lengths[row, n]].tolist()


def penalty(length, alpha):
  return ((5 + length) / 6) ** alpha


def everything(model, salt, limit, alpha, vocab):
  """All sequences of a model with their scores, best first."""
  inner = [token for token in range(vocab) if token not in (PAD, BOS, EOS)]
  ended = [[*s, EOS] for n in range(limit) for s in itertools.product(inner, repeat=n)]
  scored = [(model.log_prob(s, salt) / penalty(len(s), alpha), s) for s in ended]
  return sorted(scored, key=lambda pair: -pair[0])


def naive_beam(model, salt, limit, alpha, vocab, num_beams):
  """Beam search from its definition, to the limit, in lists."""
  live, finished = [(0.0, [])], []
  for length in range(1, limit + 1):
    tokens = [EOS] if length == limit else [t for t in range(vocab) if t not in (PAD, BOS)]
    candidates = []
    for log_prob, so_far in live:
      after = model.log_probs(so_far, salt)
      candidates += [(log_prob + after[token], [*so_far, token]) for token in tokens]
    candidates.sort(key=lambda pair: -pair[0])
    for log_prob, sequence in candidates[:num_beams]:
      if sequence[-1] == EOS:
        finished.append((log_prob / penalty(length, alpha), sequence))
    if num_beams == 1:
      candidates = candidates[:1]
    live = [pair for pair in candidates if pair[1][-1] != EOS][:num_beams]
  return sorted(finished, key=lambda pair: -pair[0])


def assert_found(found, row, expected):
  """Row `row` holds the expected (score, tokens), then empty slots."""
  expected = expected[: found.scores.shape[1]]
  for n, (score, tokens) in enumerate(expected):
    assert words(found, row, n) == tokens
    np.testing.assert_allclose(found.scores[row, n], score, rtol=1e-5, atol=1e-5)
  assert (found.scores[row, len(expected) :] == -np.inf).all()
  assert (found.log_probs[row, len(expected) :] == -np.inf).all()
  assert (found.lengths[row, len(expected) :] == 0).all()
  assert (found.tokens[row, len(expected) :] == PAD).all()


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_rows_that_take_request_after_request_return_what_all_at_once_do(name, rows):
  limits = [-1 if i % 7 == 3 else limit for i, limit in enumerate(LIMITS)]
  at_once = SEARCHES[name](MODEL, MODEL.cache(SALTS), limits)
  in_turn = SEARCHES[name](MODEL, MODEL.cache(SALTS), limits, rows=rows)
  np.testing.assert_array_equal(in_turn.tokens, at_once.tokens)
  np.testing.assert_allclose(in_turn.scores, at_once.scores, rtol=1e-6)
  assert (at_once.lengths[3::7] == 0).all()
  assert (at_once.lengths[:3, 0] > 0).all()


@pytest.mark.parametrize("vocab", [1, 2, 7, 64, 250])
@pytest.mark.parametrize("banned", [(), (0,), (0, 1)])
def test_the_top_of_blocks_is_the_top(vocab, banned):
  rng = np.random.default_rng(vocab)
  x = rng.integers(-4, 4, (40, 3, vocab)).astype(np.float32)  # many are equal
  allowed = np.where(np.isin(np.arange(vocab), banned), -np.inf, x)
  for k in {1, min(8, vocab), vocab}:
    most, best, token = top_of_blocks(jnp.asarray(x), k, banned)
    np.testing.assert_array_equal(most, x.max(-1))
    values, expected = jax.lax.top_k(allowed, k)
    np.testing.assert_array_equal(best, values)
    finite = values > -np.inf
    np.testing.assert_array_equal(np.asarray(token)[finite], expected[finite])
    assert (token < vocab).all()


def test_length_weights_are_the_papers_and_monotone():
  np.testing.assert_allclose(length_weights(7, 1.0)[[1, 7]], [1, 1 / 2])
  np.testing.assert_allclose(length_weights(7, 0.6)[7], 2**-0.6)
  assert (np.diff(length_weights(4096, 0.6)) < 0).all()
  assert (np.diff(length_weights(4096, -0.6)) > 0).all()


def test_a_chain_is_followed_link_by_link():
  table = probabilities(
    bos={B: 0.7, A: 0.3}, b={C: 0.8, EOS: 0.2}, c={A: 0.6, B: 0.4}, a={EOS: 0.9, A: 0.1}
  )
  found = run(greedy, Chain, chain(table), [6])
  assert found.tokens[0, 0].tolist() == [B, C, A, EOS, PAD, PAD]
  assert found.lengths[0, 0] == 4
  np.testing.assert_allclose(found.log_probs[0, 0], np.log(0.7 * 0.8 * 0.6 * 0.9), rtol=1e-5)
  np.testing.assert_array_equal(found.scores, found.log_probs)


def test_two_beams_see_what_greedy_misses():
  # by eye: a, end = 0.6 * 0.5 = 0.30; b, end = 0.4 * 0.9 = 0.36
  table = probabilities(
    bos={A: 0.6, B: 0.4}, a={EOS: 0.5, C: 0.5}, b={EOS: 0.9, C: 0.1}, c={C: 1.0}
  )
  assert words(run(greedy, Chain, chain(table), [4]), 0) == [A, EOS]
  found = two_beams(chain(table), [4], length_penalty=0.0)
  assert_found(found, 0, [(np.log(0.36), [B, EOS]), (np.log(0.30), [A, EOS])])


def test_length_penalty_prefers_the_longer():
  # by eye: end = 0.3; a, b, end = 0.7 * 0.5 * 0.8 = 0.28, and 3 tokens divide its log by 8/6
  table = probabilities(bos={EOS: 0.3, A: 0.7}, a={B: 0.5, C: 0.5}, b={EOS: 0.8, C: 0.2}, c={C: 1})
  short, long = (np.log(0.3), [EOS]), (np.log(0.28), [A, B, EOS])
  found = two_beams(chain(table), [4], length_penalty=0.0)
  assert_found(found, 0, [short, long])
  found = two_beams(chain(table), [4], length_penalty=1.0)
  assert_found(found, 0, [(long[0] * 6 / 8, long[1]), short])
  np.testing.assert_allclose(found.log_probs[0], [long[0], short[0]], rtol=1e-5)


def test_of_equals_the_earlier_then_the_lower_wins():
  table, each = np.zeros((6, 6)), -np.log(6)
  assert words(run(greedy, Chain, chain(table), [3]), 0) == [EOS]
  found = two_beams(chain(table), [2], length_penalty=0.0)
  assert_found(found, 0, [(each, [EOS]), (2 * each, [A, EOS])])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_full_beam_is_enumeration(alpha):
  vocab, limits, salts = 6, [4, 1, 3, 4], [1, 2, 3, 500]
  model = Remembering(vocab)
  # 4 tokens allowed at each of 4 places; 40 sequences in all, so 50 leaves empty slots
  settings = {"num_beams": 4**4, "length_penalty": alpha, "num_return": 50}
  found = run(beam_search, model, model.cache(salts), limits, **settings)
  for row, (salt, limit) in enumerate(zip(salts, limits)):
    assert_found(found, row, everything(model, salt, limit, alpha, vocab))


@pytest.mark.parametrize("num_beams, alpha", [(2, 0.6), (4, 1.0), (5, -1.0), (1, 1.0)])
def test_beam_is_the_beam_of_the_definition(num_beams, alpha):
  settings = {"num_beams": num_beams, "length_penalty": alpha, "num_return": num_beams}
  found = run(beam_search, MODEL, MODEL.cache(SALTS), LIMITS, **settings)
  for row, (salt, limit) in enumerate(zip(SALTS, LIMITS)):
    assert_found(found, row, naive_beam(MODEL, salt, clipped(limit), alpha, 9, num_beams))


@pytest.mark.parametrize("alpha", [1.0, -1.0])
def test_one_beam_is_greedy(alpha):
  settings = {"num_beams": 1, "length_penalty": alpha, "num_return": 1}
  one = run(beam_search, MODEL, MODEL.cache(SALTS), LIMITS, **settings)
  best = run(greedy, MODEL, MODEL.cache(SALTS), LIMITS)
  scores = best.log_probs * length_weights(MAX_LEN, alpha)[best.lengths]
  assert_same(one, best._replace(scores=scores))


@pytest.mark.parametrize("alpha, num_return", [(0.0, 1), (0.6, 1), (1.0, 3), (3.0, 1), (-1.0, 3)])
def test_an_exact_stop_changes_nothing(alpha, num_return):
  """The definition goes on to the limit."""
  max_len, salts = 12, range(60)
  model = Remembering(7, max_len)
  settings = {"num_beams": 3, "length_penalty": alpha, "num_return": num_return}
  limits = [max_len - i % 4 for i in salts]
  found = run(beam_search, model, model.cache(salts), limits, max_len=max_len, **settings)
  for row, (salt, limit) in enumerate(zip(salts, limits)):
    assert_found(found, row, naive_beam(model, salt, limit, alpha, 7, 3))


def test_an_exact_stop_is_early_where_it_can_be():
  # by eye: [a, end] has 0.89, and whatever else there is starts with 0.1 or less; a penalty of the
  # power 3 makes the longest output the best, whatever its probability
  cache = chain(probabilities(bos={A: 0.9, B: 0.1}, a={EOS: 0.99, A: 0.01}, b={B: 0.9, EOS: 0.1}))
  steps = []

  class Counted:
    @staticmethod
    def step(token_BN, cache):
      jax.debug.callback(lambda: steps.append(1))
      return Chain.step(token_BN, cache)

  for alpha, count in ((0.6, 2), (3.0, 40)):
    steps.clear()
    run(beam_search, Counted, cache, [40], num_beams=2, length_penalty=alpha, max_len=40)
    jax.effects_barrier()
    assert len(steps) == count


@pytest.mark.parametrize("name", SEARCHES)
def test_a_row_is_the_same_in_every_batch(name):
  together = SEARCHES[name](MODEL, MODEL.cache(SALTS), LIMITS)
  for row in range(0, len(SALTS), 3):
    ids = {"ids": [row]} if name == "sample" else {}
    alone = SEARCHES[name](MODEL, MODEL.cache([SALTS[row]]), [LIMITS[row]], **ids)
    assert_same(jax.tree.map(lambda x: x[0], alone), jax.tree.map(lambda x: x[row], together))  # noqa: B023


@pytest.mark.parametrize("name", SEARCHES)
def test_every_hypothesis_ends_within_its_limit(name):
  found = SEARCHES[name](MODEL, MODEL.cache(SALTS), LIMITS)
  at_limit = 0
  for row, n in np.argwhere(found.scores > -np.inf):
    tokens, limit = words(found, row, n), clipped(LIMITS[row])
    assert tokens[-1] == EOS
    assert not {PAD, BOS, EOS} & set(tokens[:-1])
    assert len(tokens) <= limit
    assert (found.tokens[row, n, len(tokens) :] == PAD).all()
    # the model's own: nothing of pad's and bos's share, the temperature's or the forced eos's
    log_prob = MODEL.log_prob(tokens, SALTS[row])
    np.testing.assert_allclose(found.log_probs[row, n], log_prob, rtol=1e-5)
    at_limit += len(tokens) == limit
  assert at_limit > len(SALTS) / 4
  assert (found.scores[:, 0] > -np.inf).all()
  assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_ends_though_the_model_never_would(name):
  table = np.where(np.arange(6) == EOS, -np.inf, np.zeros((6, 6)))
  assert (SEARCHES[name](Chain, chain(table), [4]).scores == -np.inf).all()


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_one_id_may_begin_end_and_pad(name):
  table = probabilities(bos={A: 0.9, B: 0.1}, a={B: 0.9, A: 0.1}, b={BOS: 0.9, C: 0.1}, c={C: 1})
  found = SEARCHES[name](Chain, chain(table), [5], eos=BOS, pad=BOS)
  assert found.tokens[0, 0].tolist() == [A, B, BOS, BOS, BOS, BOS]
  assert found.lengths[0, 0] == 3


@pytest.mark.parametrize(
  "settings", [{"temperature": 0}, {"temperature": 1e-5}, {"top_k": 1}, {"top_p": 1e-6}]
)
def test_cold_sampling_is_greedy(settings):
  drawn = run_sample(MODEL, MODEL.cache(SALTS), LIMITS, num_samples=2, **settings)
  best = run(greedy, MODEL, MODEL.cache(SALTS), LIMITS)
  assert_same(drawn, jax.tree.map(lambda x: np.repeat(x, 2, axis=1), best))


def drawn_from(row, temperature=1.0, top_k=None, top_p=1.0):
  """The distribution a token comes from, by sorting."""
  row = np.where(np.isin(np.arange(len(row)), [PAD, BOS]), -np.inf, row)
  order = np.argsort(-row)
  shares = np.exp(row[order] / temperature)
  shares[len(row) if top_k is None else top_k :] = 0
  shares /= shares.sum()
  shares[np.cumsum(shares) - shares >= top_p] = 0
  return (shares / shares.sum())[np.argsort(order)]


@pytest.mark.parametrize(
  "settings",
  [{}, {"temperature": 0.5}, {"top_p": 0.8}, {"temperature": 1.5, "top_k": 4, "top_p": 0.7}],
)
def test_frequencies_are_the_probabilities(settings):
  vocab, num = 8, 20_000
  table = np.random.default_rng(1).normal(size=(vocab, vocab))
  found = run_sample(Chain, chain(table), [3], max_len=3, num_samples=num, **settings)
  first, second = found.tokens[0, :, 0], found.tokens[0, :, 1]
  start = drawn_from(table[BOS], **settings)
  # pairs of places: draws that depend on each other are seen too
  for a, b in itertools.product(range(vocab), repeat=2):
    after = np.eye(vocab)[PAD] if a == EOS else drawn_from(table[a], **settings)
    share = start[a] * after[b]
    seen = np.mean((first == a) & (second == b))
    # five standard deviations of a share of num draws, and nothing where nothing may be
    assert abs(seen - share) <= 5 * np.sqrt(share * (1 - share) / num)


def test_samples_differ_by_id_number_and_key():
  def draw(num=4, **settings):
    found = run_sample(Chain, chain(np.zeros((50, 50)), 4), [6] * 4, num_samples=num, **settings)
    return found.tokens

  found = draw()
  assert len({tuple(tokens) for tokens in found.reshape(-1, MAX_LEN)}) == 4 * 4
  assert_same(found, draw())
  assert not np.array_equal(found, draw(seed=1))
  assert_same(found[::-1], draw(ids=[3, 2, 1, 0]))
  # more of them leave the first ones as they are
  more = {tuple(tokens) for tokens in draw(num=6)[2]}
  assert {tuple(tokens) for tokens in found[2]} < more


def test_settings_out_of_range_are_errors():
  cache = chain(np.zeros((6, 6)))
  for settings in [{"temperature": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}]:
    with pytest.raises(ValueError, match="temperature="):
      run_sample(Chain, cache, [3], **settings)
  for num_return in [0, 3]:
    settings = {"num_beams": 2, "length_penalty": 0.6, "num_return": num_return}
    with pytest.raises(ValueError, match="num_return="):
      run(beam_search, Chain, cache, [3], **settings)
