"""Builds translators' tokenizers (mBART, NLLB, M2M-100, Marian) from their vocabulary files, with
the tokens of their languages."""

import re
from collections.abc import Mapping

import tokenizers
from tokenizers import AddedToken, Regex, decoders

from train.common import json_files
from train.common.errors import UserError, as_user_error, choose
from train.data.pieces import ABSENT
from train.interop import spm

# mBART-50's languages; the first 25 are mBART's.
MBART50 = """
  ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV
  my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID
  ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA
  ur_PK xh_ZA gl_ES sl_SI
"""
# NLLB-200's, in the order of their ids.
NLLB = """
  ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab
  arb_Arab ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn
  bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt
  bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn
  dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
  ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
  gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn
  hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn
  kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn
  kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang kmr_Latn lao_Laoo
  lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn
  luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
  mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva
  nso_Latn nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn
  por_Latn prs_Arab pbt_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng
  scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn
  spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn szl_Latn tam_Taml
  tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
  tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab
  uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans
  zho_Hant zul_Latn
"""
# M2M-100's.
M2M = """
  af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha
  he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne
  nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo
  xh yi yo zh zu
"""
# Those of WMT 2021's models of that form.
WMT21 = """
  en ha is ja cs ru zh de
"""

CODES = dict(m2m100=M2M, wmt21=WMT21)  # by tokenizer_config.json's language_codes
FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # fairseq's ids 0 to 3
NAMED = re.compile(r"<unk>|<pad>|</s>|<s>|>>.+<<|__.+__")  # special tokens in a vocab.json
Inner = tokenizers.Tokenizer


def mbart(settings: Mapping, path) -> Inner:
  """Builds mBART's tokenizer with fairseq's ids: four special tokens, the pieces with ids one
  larger, the languages, <mask>."""
  of_50 = "mbart50" in str(settings.get("tokenizer_class", "")).lower()
  return _fairseq(path, MBART50.split()[: None if of_50 else 25])


def nllb(settings: Mapping, path) -> Inner:
  """Builds NLLB's tokenizer, which is mBART's with other languages."""
  listed = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
  names = [x.get("content") if isinstance(x, dict) else x for x in listed]
  return _fairseq(path, [x for x in names if isinstance(x, str) and x != "<mask>"] or NLLB.split())


def _fairseq(path, languages: list[str]) -> Inner:
  model = spm.load(path)
  pieces = [(name, 0.0) for name in FIRST]
  pieces += [(piece.text, piece.score) for piece in model.pieces[3:]]
  inner = spm.convert(model, pieces, unk=3)
  inner.add_special_tokens([*FIRST])
  inner.add_special_tokens([*languages])
  inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
  return inner


def m2m(settings: Mapping, path, vocabulary) -> tuple[Inner, int | None]:
  """Builds M2M-100's tokenizer: vocab.json has the ids of the pieces, and the languages follow.
  Also returns the number of ids where the model has pieces without one."""
  kind = settings.get("language_codes", "m2m100")
  codes = choose(CODES, kind, f"{path.with_name('tokenizer_config.json')}: language_codes")
  names = _names(vocabulary)
  languages = [f"__{code}__" for code in codes.split()]
  inner, size = _numbered(spm.load(path), names, languages), len(names) + len(languages)
  # transformers' M2M-100 cuts blanks at the end of an output
  inner.decoder = decoders.Sequence([inner.decoder, decoders.Replace(Regex(" +$"), "")])
  return inner, size if inner.get_vocab_size() > size else None


def marian(folder) -> tuple[Inner, Inner, int]:
  """Builds the tokenizers of sources and targets from two SentencePiece models. vocab.json has the
  ids of their pieces; a piece without an id is unknown."""
  paths = [folder / name for name in ("source.spm", "target.spm", "vocab.json")]
  if missing := [path.name for path in paths if not path.exists()]:
    raise UserError(f"{folder} has no {', '.join(missing)}: copy it from where the others are from")
  names = _names(paths[2])
  with as_user_error(f"{folder}: source.spm, target.spm and vocab.json make no tokenizer"):
    return *(_numbered(spm.load(path), names) for path in paths[:2]), len(names)


def _names(path) -> list[str]:
  """Returns the tokens of a vocab.json by their ids."""
  vocab = json_files.read(path, dict[str, int])
  if sorted(vocab.values()) != list(range(len(vocab))) or "<unk>" not in vocab:
    raise UserError(f"{path}: the ids must be 0 to {len(vocab) - 1}, and <unk> must have one")
  return sorted(vocab, key=vocab.get)


def _numbered(model: spm.Model, names: list[str], languages=()) -> Inner:
  """Returns the model's tokenizer with the ids of `names` and then of `languages`; pieces that are
  not among the names come last."""
  scores = {piece.text: piece.score for piece in model.pieces if piece.kind == spm.NORMAL}
  special = [name for name in names if NAMED.fullmatch(name)]
  # other names are no pieces of this model: they can be decoded, but nothing is encoded as them
  there = scores.keys() | set(special)
  pieces = [(x if x in there else ABSENT + x, scores.get(x, 0.0)) for x in names]
  numbered = set(names)
  if rest := [(x, score) for x, score in scores.items() if x not in numbered]:
    pieces += [*((name, 0.0) for name in languages), *rest]
  inner = spm.convert(model, pieces, unk=names.index("<unk>"))
  inner.decoder = decoders.Sequence([decoders.Replace(ABSENT, ""), inner.decoder])
  inner.add_special_tokens([*special, *languages])
  return inner
