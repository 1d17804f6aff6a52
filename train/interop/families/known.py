"""Lists the families by the values of config.json's `model_type`."""

from train.interop.families import (
  bert2bert,
  bert_variants,
  deberta,
  decoders,
  encoder_decoders,
  encoders,
  gemma,
  llama,
  longformer,
  modernbert,
  multilingual,
  opt,
  t5,
  t5gemma,
)

MODULES = (
  encoders,
  bert_variants,
  modernbert,
  deberta,
  decoders,
  llama,
  gemma,
  opt,
  t5,
  encoder_decoders,
  multilingual,
  t5gemma,
  bert2bert,
  longformer,
)
FAMILIES = {family.model_type: family for module in MODULES for family in module.FAMILIES}
