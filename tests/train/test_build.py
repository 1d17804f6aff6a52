"""Which model a config's section names, and what is said of one that there is not."""

import types

import pytest

from model.lstm import LSTM
from model.transformer import Transformer
from train.build import build_model
from train.common.errors import UserError

SMALL = dict(dim=8, encoder_layers=0, decoder_layers=1)
LSTM_OF = dict(name="lstm") | SMALL
TRANSFORMER_OF = dict(name="transformer", num_heads=2, mlp_dim=8) | SMALL


def task(**changes):
  tokenizer = types.SimpleNamespace(vocab_size=9)
  plain = dict(tokenizer=tokenizer, source_len=0, target_len=4, max_positions=(0, 4))
  plain |= dict(pack=True, prefix=False, any_stack=False, head=lambda cfg, rngs: None)
  plain |= dict(global_attention="first")
  return types.SimpleNamespace(**plain | changes)


def test_the_name_says_which_and_without_one_it_is_a_transformer():
  assert isinstance(build_model(LSTM_OF, task(), 0), LSTM)
  assert isinstance(build_model(TRANSFORMER_OF, task(), 0), Transformer)
  old = {key: value for key, value in TRANSFORMER_OF.items() if key != "name"}
  assert isinstance(build_model(old, task(), 0), Transformer)


@pytest.mark.parametrize(
  "section, told",
  [
    (LSTM_OF | dict(num_heads=4), "model.num_heads is a setting of model.name=transformer"),
    (LSTM_OF | dict(window=4), "model.window is a setting of model.name=transformer"),
    (TRANSFORMER_OF | dict(bidirectional=True), "model.bidirectional is a setting of .*=lstm"),
    (LSTM_OF | dict(droput=0.1), "model.droput: model.name=lstm has no .* did you mean dropout"),
    (LSTM_OF | dict(name="ltsm"), "model.name is 'ltsm'; known: .* did you mean lstm"),
    (LSTM_OF | dict(vocab_size=8), "model.vocab_size is 8, but the vocabulary has 9"),
    (LSTM_OF | dict(dropout=1.0), "model: model.dropout is 1.0"),
    (LSTM_OF | dict(encoder_layers=1), "encoder_layers is 1, but the task has no use for"),
  ],
)
def test_settings_of_another_model_are_told(section, told):
  with pytest.raises(UserError, match=told):
    build_model(section, task(), 0)


@pytest.mark.parametrize("asked, platform", [("cudnn", "cpu"), ("xla", "cpu"), ("splash", "gpu")])
def test_what_no_kernel_computes_is_computed_by_einsum(asked, platform, caplog):
  section = TRANSFORMER_OF | dict(attention_softcap=5.0, attention_impl=asked)
  model = build_model(section, task(), 0, platform)
  assert model.cfg.attention_impl == model.decoder.dot_product.impl == "einsum"
  plain = build_model(section | dict(attention_softcap=None), task(), 0, platform)
  assert plain.cfg.attention_impl == "xla"


@pytest.mark.parametrize("platform, impl", [("cpu", "einsum"), ("tpu", "splash")])
def test_auto_is_the_kernel_of_the_devices(platform, impl):
  model = build_model(TRANSFORMER_OF | dict(attention_impl="auto"), task(), 0, platform)
  assert model.cfg.attention_impl == model.decoder.dot_product.impl == impl


@pytest.mark.parametrize("own", [dict(global_tokens=1), dict(global_blocks=2)])
def test_what_counts_from_the_start_of_a_row_is_not_packed(own):
  sizes = dict(encoder_layers=1, decoder_layers=0, window=2, positions="relative")
  of_encoder = dict(source_len=4, target_len=0, max_positions=(4, 0))
  with pytest.raises(UserError, match=rf"model.{next(iter(own))} .* task.pack=False"):
    build_model(TRANSFORMER_OF | sizes | own, task(**of_encoder), 0)
  build_model(TRANSFORMER_OF | sizes | own, task(**of_encoder, pack=False), 0)


@pytest.mark.parametrize(
  "which, tokens, logged", [("question", 2, 1), ("question", 4, 0), ("first", 2, 0)]
)
def test_tokens_of_a_question_that_cannot_be_global_are_named(which, tokens, logged, caplog):
  sizes = dict(encoder_layers=1, decoder_layers=0, window=2, positions="relative")
  own = dict(source_len=4, target_len=0, max_positions=(4, 0), pack=False, global_attention=which)
  build_model(TRANSFORMER_OF | sizes | dict(global_tokens=tokens), task(**own), 0)
  words = "model.global_tokens is 2", "task.source_len is 4"
  assert sum(all(word in line for word in words) for line in caplog.messages) == logged


def test_a_decoder_has_as_many_positions_as_its_own_table():
  both = TRANSFORMER_OF | dict(encoder_layers=1, positions="learned", max_len=9, decoder_max_len=4)
  sides = dict(source_len=9, target_len=4, max_positions=(9, 4))
  build_model(both, task(**sides), 0)
  with pytest.raises(UserError, match=r"model\.decoder_max_len 4 is less than the 5 positions"):
    build_model(both, task(**sides | dict(max_positions=(9, 5))), 0)
  with pytest.raises(UserError, match=r"model\.max_len 8 is less than the 9 positions"):
    build_model(both | dict(max_len=8), task(**sides), 0)


def test_a_prefix_is_nothing_for_an_lstm():
  with pytest.raises(UserError, match=r"task.prefix: .* use an encoder-decoder"):
    build_model(LSTM_OF, task(prefix=True), 0)
