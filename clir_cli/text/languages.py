"""Languages: one table with every name the field gives each of them, and sentences in any of their scripts.

Nothing here falls back: a code is in the table or `language` refuses it, a name is in its column or it is None, and the
component that needs the name says so. Standard library only, so that listing and planning stay instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from clir_cli.errors import LanguageError


class Language(NamedTuple):
    """A language under the names of everybody whose model, analyser or data we use; None where they do not have it."""

    code: str  # what clir uses everywhere: ISO 639-1, else 639-3; of a second script with it: `hi_Latn`, `zh_Hant`
    name: str  # in English
    iso3: str  # ISO 639-3; of the macrolanguage where the two-letter code means one (ara, zho, swa)
    script: str  # ISO 15924; the script of the names to the right
    flores: str | None  # FLORES-200, and Belebele where it has more
    mbart: str | None  # mBART-50
    m2m100: str | None  # M2M100
    lucene: str | None  # analyser class in the Anserini jar
    apertium: tuple[str, ...]  # spellings in the names of Apertium's Debian modes, the most specific first
    xmod: str | None  # language adapter of X-MOD
    spaces: bool  # words are separated by white space

    @property
    def nllb(self) -> str | None:
        """NLLB-200's code; None for what only FLORES-200 or Belebele has."""
        return None if self.flores in _NOT_NLLB else _NLLB.get(str(self.flores), self.flores)

    @property
    def spellings(self) -> set[str]:
        """How files may write the language in a column; an ISO 639-3 code means its first script."""
        return {name for name in (self.code, self.flores, None if "_" in self.code else self.iso3) if name}


# What NLLB's tokenizer (transformers 5.23) lacks of the column flores, and what it spells in another way.
_NOT_NLLB = frozenset({"arb_Latn", "ben_Latn", "hin_Latn", "min_Arab", "npi_Latn", "sin_Latn", "urd_Latn"})
_NLLB = {"sat_Olck": "sat_Beng"}

# flores, mbart, m2m100: the tables of transformers 5.23; a macrolanguage stands for its standard variety (no: Bokmål,
# ku: Kurmanji, ms: Standard Malay). lucene: what Anserini 1.7.1's AnalyzerMap takes, and Lucene's own class where the map
# has none and would analyse as English in silence (el ro bg ca cs et eu ga gl hy lt lv ne sr ta); DefaultEnglish has no
# public constructor (newDefaultInstance()); th needs a full JDK. Of a dialect Lucene has none: retriever.analyser=ar reads
# arz by that of Arabic, knowingly. apertium: the modes in Debian 12's packages; hbs_XX is a target only. xmod: the config
# of facebook/xmod-base. The second part: what FLORES-200, Belebele, CLIRMatrix, AfriCLIRMatrix, AfriQA and Tatoeba have
# beside the first; names are those of Unicode's CLDR (babel 2.18), else of these collections. CLIRMatrix's and Tatoeba's
# retired codes stand as they write them: eml, kzj, sh; ber is a group of languages.
_TABLE = """
en English           eng Latn eng_Latn en_XX en anserini.DefaultEnglish eng,en     en_XX
de German            deu Latn deu_Latn de_DE de de.German               -          de_DE
es Spanish           spa Latn spa_Latn es_XX es es.Spanish              spa,es     es_XX
fi Finnish           fin Latn fin_Latn fi_FI fi fi.Finnish              -          fi_FI
fr French            fra Latn fra_Latn fr_XX fr fr.French               fra,fr     fr_XX
it Italian           ita Latn ita_Latn it_IT it it.Italian              ita        it_IT
nl Dutch             nld Latn nld_Latn nl_XX nl nl.Dutch                nld        nl_XX
pt Portuguese        por Latn por_Latn pt_XX pt pt.Portuguese           por,pt     pt_XX
ru Russian           rus Cyrl rus_Cyrl ru_RU ru ru.Russian              rus        ru_RU
sv Swedish           swe Latn swe_Latn sv_SE sv sv.Swedish              swe        sv_SE
bg Bulgarian         bul Cyrl bul_Cyrl -     bg bg.Bulgarian            bul        bg_BG
cs Czech             ces Latn ces_Latn cs_CZ cs cz.Czech                -          cs_CZ
hu Hungarian         hun Latn hun_Latn -     hu hu.Hungarian            -          hu_HU
ha Hausa             hau Latn hau_Latn -     ha -                       -          ha_NG
so Somali            som Latn som_Latn -     so -                       -          so_SO
sw Swahili           swa Latn swh_Latn sw_KE sw -                       -          sw_KE
yo Yoruba            yor Latn yor_Latn -     yo -                       -          -
ig Igbo              ibo Latn ibo_Latn -     ig -                       -          -
am Amharic           amh Ethi amh_Ethi -     am -                       -          am_ET
zu Zulu              zul Latn zul_Latn -     zu -                       -          -
xh Xhosa             xho Latn xho_Latn xh_ZA xh -                       -          -
rw Kinyarwanda       kin Latn kin_Latn -     -  -                       -          -
om Oromo             orm Latn gaz_Latn -     -  -                       -          -
ti Tigrinya          tir Ethi tir_Ethi -     -  -                       -          -
ln Lingala           lin Latn lin_Latn -     ln -                       -          -
sn Shona             sna Latn sna_Latn -     -  -                       -          -
tw Twi               twi Latn twi_Latn -     -  -                       -          -
wo Wolof             wol Latn wol_Latn -     wo -                       -          -
af Afrikaans         afr Latn afr_Latn af_ZA af -                       afr        af_ZA
ar Arabic            ara Arab arb_Arab ar_AR ar ar.Arabic               -          ar_AR
zh Chinese           zho Hans zho_Hans zh_CN zh cjk.CJK                 -          zh_CN
fa Persian           fas Arab pes_Arab fa_IR fa fa.Persian              -          fa_IR
bn Bengali           ben Beng ben_Beng bn_IN bn bn.Bengali              -          bn_IN
hi Hindi             hin Deva hin_Deva hi_IN hi hi.Hindi                hin        hi_IN
id Indonesian        ind Latn ind_Latn id_ID id id.Indonesian           ind        id_ID
ja Japanese          jpn Jpan jpn_Jpan ja_XX ja ja.Japanese             -          ja_XX
ko Korean            kor Kore kor_Hang ko_KR ko cjk.CJK                 -          ko_KR
te Telugu            tel Telu tel_Telu te_IN -  te.Telugu               -          te_IN
th Thai              tha Thai tha_Thai th_TH th th.Thai                 -          th_TH
el Greek             ell Grek ell_Grek -     el el.Greek                -          el_GR
ro Romanian          ron Latn ron_Latn ro_RO ro ro.Romanian             ro         ro_RO
tr Turkish           tur Latn tur_Latn tr_TR tr tr.Turkish              -          tr_TR
vi Vietnamese        vie Latn vie_Latn vi_VN vi -                       -          vi_VN
ta Tamil             tam Taml tam_Taml ta_IN ta ta.Tamil                -          ta_IN
ml Malayalam         mal Mlym mal_Mlym ml_IN ml -                       -          ml_IN
kn Kannada           kan Knda kan_Knda -     kn -                       -          kn_IN
mr Marathi           mar Deva mar_Deva mr_IN mr -                       -          mr_IN
gu Gujarati          guj Gujr guj_Gujr gu_IN gu -                       -          gu_IN
pa Punjabi           pan Guru pan_Guru -     pa -                       -          pa_IN
or Odia              ori Orya ory_Orya -     or -                       -          or_IN
as Assamese          asm Beng asm_Beng -     -  -                       -          -
ne Nepali            nep Deva npi_Deva ne_NP ne ne.Nepali               -          ne_NP
sa Sanskrit          san Deva san_Deva -     -  -                       -          sa_IN
si Sinhala           sin Sinh sin_Sinh si_LK si -                       -          si_LK
ur Urdu              urd Arab urd_Arab ur_PK ur -                       urd        ur_PK
da Danish            dan Latn dan_Latn -     da da.Danish               dan        da_DK
no Norwegian         nor Latn nob_Latn -     no no.Norwegian            nob        no_XX
nb Norwegian_Bokmål  nob Latn nob_Latn -     no no.Norwegian            nob        no_XX
nn Norwegian_Nynorsk nno Latn nno_Latn -     -  no.Norwegian            nno        -
is Icelandic         isl Latn isl_Latn -     is -                       isl        is_IS
pl Polish            pol Latn pol_Latn pl_PL pl morfologik.Morfologik   pol        pl_PL
sk Slovak            slk Latn slk_Latn -     sk -                       -          sk_SK
sl Slovene           slv Latn slv_Latn sl_SI sl -                       slv        sl_SI
uk Ukrainian         ukr Cyrl ukr_Cyrl uk_UA uk uk.UkrainianMorfologik  ukr        uk_UA
be Belarusian        bel Cyrl bel_Cyrl -     be -                       bel        be_BY
hr Croatian          hrv Latn hrv_Latn hr_HR hr -                       hbs_HR,hbs hr_HR
bs Bosnian           bos Latn bos_Latn -     bs -                       hbs_BS,hbs -
sr Serbian           srp Cyrl srp_Cyrl -     sr sr.Serbian              hbs_SR,hbs sr_RS
mk Macedonian        mkd Cyrl mkd_Cyrl mk_MK mk -                       mkd        mk_MK
sq Albanian          sqi Latn als_Latn -     sq -                       -          sq_AL
et Estonian          est Latn est_Latn et_EE et et.Estonian             -          et_EE
lv Latvian           lav Latn lvs_Latn lv_LV lv lv.Latvian              -          lv_LV
lt Lithuanian        lit Latn lit_Latn lt_LT lt lt.Lithuanian           -          lt_LT
ga Irish             gle Latn gle_Latn -     ga ga.Irish                -          ga_IE
cy Welsh             cym Latn cym_Latn -     cy -                       -          cy_GB
eu Basque            eus Latn eus_Latn -     -  eu.Basque               eu         eu_ES
ca Catalan           cat Latn cat_Latn -     ca ca.Catalan              cat,ca     ca_ES
gl Galician          glg Latn glg_Latn gl_ES gl gl.Galician             gl         gl_ES
lb Luxembourgish     ltz Latn ltz_Latn -     lb -                       -          -
mt Maltese           mlt Latn mlt_Latn -     -  -                       -          -
eo Esperanto         epo Latn epo_Latn -     -  -                       eo         eo_EO
he Hebrew            heb Hebr heb_Hebr he_IL he -                       -          he_IL
ka Georgian          kat Geor kat_Geor ka_GE ka -                       -          ka_GE
hy Armenian          hye Armn hye_Armn -     hy hy.Armenian             -          hy_AM
az Azerbaijani       aze Latn azj_Latn az_AZ az -                       -          az_AZ
kk Kazakh            kaz Cyrl kaz_Cyrl kk_KZ kk -                       -          kk_KZ
ky Kyrgyz            kir Cyrl kir_Cyrl -     -  -                       -          ky_KG
uz Uzbek             uzb Latn uzn_Latn -     uz -                       -          uz_UZ
tg Tajik             tgk Cyrl tgk_Cyrl -     -  -                       -          -
ps Pashto            pus Arab pbt_Arab ps_AF ps -                       -          ps_AF
ku Kurdish           kur Latn kmr_Latn -     -  -                       -          ku_TR
mn Mongolian         mon Cyrl khk_Cyrl mn_MN mn -                       -          mn_MN
ms Malay             msa Latn zsm_Latn -     ms -                       zlm        ms_MY
tl Tagalog           tgl Latn tgl_Latn tl_XX tl -                       -          tl_XX
jv Javanese          jav Latn jav_Latn -     jv -                       -          -
my Burmese           mya Mymr mya_Mymr my_MM my -                       -          my_MM
km Khmer             khm Khmr khm_Khmr km_KH km -                       -          km_KH
lo Lao               lao Laoo lao_Laoo -     lo -                       -          lo_LA
ace      Acehnese                       ace Latn ace_Latn - -   -          -       -
ace_Arab Acehnese_(Arabic_script)       ace Arab ace_Arab - -   -          -       -
acm      Mesopotamian_Arabic            acm Arab acm_Arab - -   -          -       -
acq      Ta'izzi-Adeni_Arabic           acq Arab acq_Arab - -   -          -       -
aeb      Tunisian_Arabic                aeb Arab aeb_Arab - -   -          -       -
ajp      South_Levantine_Arabic         ajp Arab ajp_Arab - -   -          -       -
ak       Akan                           aka Latn aka_Latn - -   -          -       -
an       Aragonese                      arg Latn -        - -   -          arg     -
ang      Old_English                    ang Latn -        - -   -          -       -
apc      North_Levantine_Arabic         apc Arab apc_Arab - -   -          -       -
ar_Latn  Arabic_(Latin_script)          ara Latn arb_Latn - -   -          -       -
arq      Algerian_Arabic                arq Arab -        - -   -          -       -
ars      Najdi_Arabic                   ars Arab ars_Arab - -   -          -       -
ary      Moroccan_Arabic                ary Arab ary_Arab - -   -          -       -
arz      Egyptian_Arabic                arz Arab arz_Arab - -   -          -       -
ast      Asturian                       ast Latn ast_Latn - ast -          ast     -
awa      Awadhi                         awa Deva awa_Deva - -   -          -       -
ay       Aymara                         aym Latn ayr_Latn - -   -          -       -
azb      South_Azerbaijani              azb Arab azb_Arab - -   -          -       -
ba       Bashkir                        bak Cyrl bak_Cyrl - ba  -          -       -
ban      Balinese                       ban Latn ban_Latn - -   -          -       -
bar      Bavarian                       bar Latn -        - -   -          -       -
bem      Bemba                          bem Latn bem_Latn - -   -          -       -
ber      Berber                         ber Latn -        - -   -          -       -
bho      Bhojpuri                       bho Deva bho_Deva - -   -          -       -
bjn      Banjar                         bjn Latn bjn_Latn - -   -          -       -
bjn_Arab Banjar_(Arabic_script)         bjn Arab bjn_Arab - -   -          -       -
bm       Bambara                        bam Latn bam_Latn - -   -          -       -
bn_Latn  Bengali_(Latin_script)         ben Latn ben_Latn - -   -          -       -
bo       Tibetan                        bod Tibt bod_Tibt - -   -          -       -
bpy      Bishnupriya                    bpy Beng -        - -   -          -       -
br       Breton                         bre Latn -        - br  -          br      -
bug      Buginese                       bug Latn bug_Latn - -   -          -       -
cbk      Chavacano                      cbk Latn -        - -   -          -       -
cdo      Min_Dong_Chinese               cdo Latn -        - -   -          -       -
ce       Chechen                        che Cyrl -        - -   -          -       -
ceb      Cebuano                        ceb Latn ceb_Latn - ceb -          -       -
ch       Chamorro                       cha Latn -        - -   -          -       -
cjk      Chokwe                         cjk Latn cjk_Latn - -   -          -       -
ckb      Central_Kurdish                ckb Arab ckb_Arab - -   ckb.Sorani -       -
crh      Crimean_Tatar                  crh Latn crh_Latn - -   -          -       -
csb      Kashubian                      csb Latn -        - -   -          -       -
cv       Chuvash                        chv Cyrl -        - -   -          -       -
dik      Southwestern_Dinka             dik Latn dik_Latn - -   -          -       -
diq      Zazaki                         diq Latn -        - -   -          -       -
dsb      Lower_Sorbian                  dsb Latn -        - -   -          -       -
dtp      Central_Dusun                  dtp Latn -        - -   -          -       -
dyu      Dyula                          dyu Latn dyu_Latn - -   -          -       -
dz       Dzongkha                       dzo Tibt dzo_Tibt - -   -          -       -
ee       Ewe                            ewe Latn ewe_Latn - -   -          -       -
eml      Emiliano-Romagnolo             eml Latn -        - -   -          -       -
ff       Fula                           ful Latn fuv_Latn - ff  -          -       -
fj       Fijian                         fij Latn fij_Latn - -   -          -       -
fo       Faroese                        fao Latn fao_Latn - -   -          -       -
fon      Fon                            fon Latn fon_Latn - -   -          -       -
fur      Friulian                       fur Latn fur_Latn - -   -          -       -
fy       Western_Frisian                fry Latn -        - fy  -          -       -
gd       Scottish_Gaelic                gla Latn gla_Latn - gd  -          -       -
gn       Guarani                        grn Latn grn_Latn - -   -          -       -
gsw      Swiss_German                   gsw Latn -        - -   -          -       -
hi_Latn  Hindi_(Latin_script)           hin Latn hin_Latn - -   -          -       -
hne      Chhattisgarhi                  hne Deva hne_Deva - -   -          -       -
hsb      Upper_Sorbian                  hsb Latn -        - -   -          -       -
ht       Haitian_Creole                 hat Latn hat_Latn - ht  -          -       -
ia       Interlingua                    ina Latn -        - -   -          -       -
ie       Interlingue                    ile Latn -        - -   -          -       -
ilo      Ilocano                        ilo Latn ilo_Latn - ilo -          -       -
io       Ido                            ido Latn -        - -   -          -       -
kab      Kabyle                         kab Latn kab_Latn - -   -          -       -
kac      Jingpho                        kac Latn kac_Latn - -   -          -       -
kam      Kamba                          kam Latn kam_Latn - -   -          -       -
kbp      Kabiyè                         kbp Latn kbp_Latn - -   -          -       -
kea      Kabuverdianu                   kea Latn kea_Latn - -   -          -       -
kg       Kongo                          kon Latn kon_Latn - -   -          -       -
ki       Kikuyu                         kik Latn kik_Latn - -   -          -       -
kmb      Kimbundu                       kmb Latn kmb_Latn - -   -          -       -
knc      Central_Kanuri                 knc Latn knc_Latn - -   -          -       -
knc_Arab Central_Kanuri_(Arabic_script) knc Arab knc_Arab - -   -          -       -
ks       Kashmiri                       kas Arab kas_Arab - -   -          -       -
ks_Deva  Kashmiri_(Devanagari_script)   kas Deva kas_Deva - -   -          -       -
kw       Cornish                        cor Latn -        - -   -          -       -
kzj      Coastal_Kadazan                kzj Latn -        - -   -          -       -
la       Latin                          lat Latn -        - -   -          -       la_VA
lfn      Lingua_Franca_Nova             lfn Latn -        - -   -          -       -
lg       Ganda                          lug Latn lug_Latn - lg  -          -       -
li       Limburgish                     lim Latn lim_Latn - -   -          -       -
lij      Ligurian                       lij Latn lij_Latn - -   -          -       -
lmo      Lombard                        lmo Latn lmo_Latn - -   -          -       -
ltg      Latgalian                      ltg Latn ltg_Latn - -   -          -       -
lua      Luba-Lulua                     lua Latn lua_Latn - -   -          -       -
luo      Luo                            luo Latn luo_Latn - -   -          -       -
lus      Mizo                           lus Latn lus_Latn - -   -          -       -
mag      Magahi                         mag Deva mag_Deva - -   -          -       -
mai      Maithili                       mai Deva mai_Deva - -   -          -       -
max      North_Moluccan_Malay           max Latn -        - -   -          -       -
mg       Malagasy                       mlg Latn plt_Latn - mg  -          -       -
mhr      Eastern_Mari                   mhr Cyrl -        - -   -          -       -
mi       Māori                          mri Latn mri_Latn - -   -          -       -
min      Minangkabau                    min Latn min_Latn - -   -          -       -
min_Arab Minangkabau_(Arabic_script)    min Arab min_Arab - -   -          -       -
mni      Manipuri                       mni Beng mni_Beng - -   -          -       -
mos      Mossi                          mos Latn mos_Latn - -   -          -       -
mrj      Western_Mari                   mrj Cyrl -        - -   -          -       -
mzn      Mazanderani                    mzn Arab -        - -   -          -       -
nap      Neapolitan                     nap Latn -        - -   -          -       -
nds      Low_German                     nds Latn -        - -   -          -       -
ne_Latn  Nepali_(Latin_script)          nep Latn npi_Latn - -   -          -       -
new      Newari                         new Deva -        - -   -          -       -
nov      Novial                         nov Latn -        - -   -          -       -
nso      Northern_Sotho                 nso Latn nso_Latn - ns  -          -       -
nus      Nuer                           nus Latn nus_Latn - -   -          -       -
ny       Nyanja                         nya Latn nya_Latn - -   -          -       -
oc       Occitan                        oci Latn oci_Latn - oc  -          oci,oc  -
orv      Old_East_Slavic                orv Cyrl -        - -   -          -       -
os       Ossetic                        oss Cyrl -        - -   -          -       -
pag      Pangasinan                     pag Latn pag_Latn - -   -          -       -
pam      Pampanga                       pam Latn -        - -   -          -       -
pap      Papiamento                     pap Latn pap_Latn - -   -          -       -
pms      Piedmontese                    pms Latn -        - -   -          -       -
pnb      Western_Punjabi                pnb Arab -        - -   -          -       -
prs      Dari                           prs Arab prs_Arab - -   -          -       -
qu       Quechua                        que Latn quy_Latn - -   -          -       -
rn       Rundi                          run Latn run_Latn - -   -          -       -
sah      Yakut                          sah Cyrl -        - -   -          -       -
sat      Santali                        sat Olck sat_Olck - -   -          -       -
sc       Sardinian                      srd Latn srd_Latn - -   -          srd     -
scn      Sicilian                       scn Latn scn_Latn - -   -          -       -
sco      Scots                          sco Latn -        - -   -          -       -
sd       Sindhi                         snd Arab snd_Arab - sd  -          -       -
sg       Sango                          sag Latn sag_Latn - -   -          -       -
sh       Serbo-Croatian                 hbs Latn -        - -   -          hbs     -
shn      Shan                           shn Mymr shn_Mymr - -   -          -       -
si_Latn  Sinhala_(Latin_script)         sin Latn sin_Latn - -   -          -       -
sm       Samoan                         smo Latn smo_Latn - -   -          -       -
ss       Swati                          ssw Latn ssw_Latn - ss  -          -       -
st       Southern_Sotho                 sot Latn sot_Latn - -   -          -       -
su       Sundanese                      sun Latn sun_Latn - su  -          -       -
swg      Swabian                        swg Latn -        - -   -          -       -
szl      Silesian                       szl Latn szl_Latn - -   -          szl     -
taq      Tamasheq                       taq Latn taq_Latn - -   -          -       -
taq_Tfng Tamasheq_(Tifinagh_script)     taq Tfng taq_Tfng - -   -          -       -
tk       Turkmen                        tuk Latn tuk_Latn - -   -          -       -
tn       Tswana                         tsn Latn tsn_Latn - tn  -          -       -
tpi      Tok_Pisin                      tpi Latn tpi_Latn - -   -          -       -
ts       Tsonga                         tso Latn tso_Latn - -   -          -       -
tt       Tatar                          tat Cyrl tat_Cyrl - -   -          -       -
tum      Tumbuka                        tum Latn tum_Latn - -   -          -       -
tzl      Talossan                       tzl Latn -        - -   -          -       -
tzm      Central_Atlas_Tamazight        tzm Tfng tzm_Tfng - -   -          -       -
ug       Uyghur                         uig Arab uig_Arab - -   -          -       -
umb      Umbundu                        umb Latn umb_Latn - -   -          -       -
ur_Latn  Urdu_(Latin_script)            urd Latn urd_Latn - -   -          -       -
vec      Venetian                       vec Latn vec_Latn - -   -          -       -
vo       Volapük                        vol Latn -        - -   -          -       -
wa       Walloon                        wln Latn -        - -   -          -       -
war      Waray                          war Latn war_Latn - -   -          -       -
wuu      Wu_Chinese                     wuu Hans -        - -   cjk.CJK    -       -
xmf      Mingrelian                     xmf Geor -        - -   -          -       -
yi       Yiddish                        yid Hebr ydd_Hebr - yi  -          -       -
yue      Cantonese                      yue Hant yue_Hant - -   cjk.CJK    -       -
zh_Hant  Chinese_(Traditional)          zho Hant zho_Hant - -   cjk.CJK    -       zh_TW
"""
_WITHOUT_SPACES = frozenset({"zh", "zh_Hant", "yue", "wuu", "ja", "th", "my", "shn", "km", "lo", "bo", "dz"})

# Spellings that people try and no column has: retired and bibliographic codes, countries, other names.
_ALIASES = """
ar:arabic-msa  bn:bangla  bo:tib  cs:cze,cz  cy:wel  da:dk  de:ger  el:gre,gr  en:uk,us,gb  es:castilian  eu:baq  fa:per,farsi,ir
fr:fre  he:iw  hr:scr  hy:arm  id:in  is:ice  ja:jp  jv:jw  ka:geo  ko:kr  ku:kurmanji  ky:kirghiz  mk:mac  ms:may
my:bur,myanmar  nl:dut,flemish  om:afaan-oromo  or:oriya  pa:panjabi  ro:rum,mo,moldavian  si:sinhalese  sk:slo
sl:slovenian  sq:alb  sr:scc  sv:se  sw:kiswahili  tl:fil,filipino  uk:ua  vi:vn  xh:isixhosa
zh:chi,cmn,cn,mandarin  zh_Hant:zh-tw,zh-hk,cmn-hant  zu:isizulu
"""


def _read_table() -> Iterator[Language]:
    for row in _TABLE.strip().splitlines():
        code, name, iso3, script, *others = row.split()
        flores, mbart, m2m100, lucene, apertium, xmod = (None if cell == "-" else cell for cell in others)
        if lucene is not None:
            package, _, analyser = lucene.partition(".")
            home = "io.anserini.analysis" if package == "anserini" else f"org.apache.lucene.analysis.{package}"
            lucene = f"{home}.{analyser}Analyzer"
        modes = tuple(apertium.split(",")) if apertium else ()
        spaces = code not in _WITHOUT_SPACES
        yield Language(code, name.replace("_", " "), iso3, script, flores, mbart, m2m100, lucene, modes, xmod, spaces)


LANGUAGES: Mapping[str, Language] = MappingProxyType({row.code: row for row in _read_table()})


def language(code: str) -> Language:
    """The row of a code of the table.

    Raises LanguageError for everything else, also for spellings we understand ("deu", "German", "de_DE"): one language
    has one name in configurations, files and cache keys. The message suggests it.
    """
    if code in LANGUAGES:
        return LANGUAGES[code]
    meant = " or ".join(f"{c} ({LANGUAGES[c].name})" for c in _suggestions(code))
    hint = f"did you mean {meant}?  " if meant else ""
    raise LanguageError(f"{code!r} is not a language code of clir; {hint}`clir languages` lists all")


def _suggestions(code: str) -> list[str]:
    """Codes that somebody who typed `code` may have meant: what it names exactly, else up to three that look like it."""
    import difflib

    known: dict[str, list[str]] = {}
    for row in LANGUAGES.values():
        for spelling in (
            row.code,
            row.iso3,
            row.name,
            row.flores or row.iso3,
            (row.flores or row.iso3)[:3],
            *row.apertium,
        ):
            known.setdefault(spelling.casefold().replace("_", "-"), []).append(row.code)
    for entry in _ALIASES.split():
        meant, _, spellings = entry.partition(":")
        for spelling in spellings.split(","):
            known.setdefault(spelling, []).append(meant)
    asked = code.strip().casefold().replace("_", "-")
    spelled = [s for s in (asked, asked.partition("-")[0]) if s in known][:1]  # de-DE, zh-cn, deu_Latn: the part before
    spelled = spelled or difflib.get_close_matches(asked, known, n=3)
    return list(dict.fromkeys(c for s in spelled for c in known[s]))[:3]


# Sentences. A hard mark ends one wherever it stands; a soft mark only before white space and no lower-case letter.
_HARD = "。！？．｡।॥۔؟።፧၊။។៕།༎᱾᱿։"
_SOFT = ".!?…՞\u037e"  # ՞ stands on the vowel of the asked word, mostly inside a sentence; U+037E is the Greek question mark
_HARD_SCRIPTS = {
    "Hans": "。！？", "Jpan": "。！？", "Deva": "।॥", "Beng": "।", "Guru": "।", "Gujr": "।", "Orya": "।", "Telu": "।", "Knda": "।",
    "Taml": "।", "Mlym": "।", "Sinh": "।", "Arab": "۔؟", "Ethi": "።፧", "Mymr": "၊။", "Khmr": "។៕", "Armn": "։", "Kore": "。！？",
    "Hant": "。！？", "Tibt": "།༎", "Olck": "᱾᱿",
}  # fmt: skip
_CLOSE = "\"'”’»›)\\]}）］｝」』】〉》〕＂＇"
_END = re.compile(
    rf"(?P<hard>[{_SOFT}]*(?:[{_HARD}]|፡፡)[{_HARD}{_SOFT}]*(?:\s+[།༎]+)*)[{_CLOSE}]*"  # “ after 。 opens the next sentence
    rf"|(?P<soft>[{_SOFT}]+|(?<=[\u0370-\u03ff\u1f00-\u1fff]);)[{_CLOSE}“‘«]*(?:\s»(?!\S))?"  # “ after . closes (German)
)
_NEXT = re.compile(r"\s++[^\w.!?…]{0,9}+(\w+)")  # the next word, behind an opening quote, bracket or dash
_TOKEN = re.compile(r"[^\s(\[{«»„“”\"'‘’¿¡/]*$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.[- ]?)+[^\W\d_]|[^\W\d_]")  # J  J.-C  z.B  т.д  U.S
_THAI_GAP = re.compile(r"(?<=[\u0e00-\u0eff])\s+(?=[\u0e00-\u0eff])")  # Thai, Lao; not beside numbers or Latin
_THAI_CHARS = 200  # Thai marks no sentences: white space ends phrases, and a phrase alone translates badly
_CUT = re.compile(r"(?=\s)|(?<=[,;:،؛、，；：])(?!\d)")

# Before a capital these still do not end a sentence. Words that often end one (etc. usw. др. Jr.) are left out.
_NOT_FINAL = """
Mr Mrs Ms Dr Prof St Rev Gen Col Capt Lt Sgt Sen Rep Gov Hon Mt Ft vs v cf approx
bzw ggf evtl inkl sog Hr Fr Nr Abb Bd Hrsg Str Ing Mio Mrd z n
Mme Mlle MM Mgr env av apr Sr Sra Srta Dra Ud Uds EE Av Gral Lic dott sig Dott Sig avv
esim tri toim bijv dhr mevr mw resp tzv např tzn ул проф акад см Дж د
"""
_NOT_FINAL_BEFORE_NUMBER = "no nr núm num n p pp pág págs s fig figs vol art kap ch sec al ca c стр с рис гл αριθ"
_ABBREVIATIONS, _BEFORE_NUMBER = frozenset(_NOT_FINAL.split()), frozenset(_NOT_FINAL_BEFORE_NUMBER.split())
_GERMAN_DATE = re.compile(r"Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez|Jahr(hundert|tausend)")  # am 3. Mai


def split_sentences(text: str, *, max_chars: int = 1000) -> list[str]:
    """The sentences of a text in any language, by the rules of its scripts; no data, no language argument.

    A line break ends a sentence (unwrap hard-wrapped text first); quotes and brackets that close after the mark stay
    with it. Long Thai and Lao lines are cut at white space into pieces of up to 200 characters. No piece is longer than
    `max_chars`: it is cut after the last white space or comma before, else in the middle of a word. Pieces are stripped
    and never empty; only white space is lost. `join_sentences` puts them, or their translations, together again.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, got {max_chars}")
    lines = (line for line in text.splitlines() if line.strip())
    sentences = (sentence for line in lines for sentence in _sentences(line))
    return [piece for sentence in sentences for part in _phrases(sentence) for piece in _capped(part, max_chars)]


def sentence_rules(code: str) -> str:
    """By which of `split_sentences`'s rules a text in this language is divided, for listings.

    Every rule runs on every text; this names the one that its script meets.
    """
    row = language(code)
    if row.code in {"th", "lo"}:
        return "phrases at white space"  # they mark no sentence
    if row.script in _HARD_SCRIPTS:
        return f"{_HARD_SCRIPTS[row.script]} anywhere, .!? before white space"
    return ".;!? before white space" if row.script == "Grek" else ".!? before white space"


def join_sentences(pieces: Sequence[str], lang: str) -> str:
    """One text of sentences in language `lang`: nothing between them in Chinese and Japanese, else a space.

    Thai, Lao, Khmer and Burmese write no space between words but one between sentences.
    """
    return ("" if language(lang).script in {"Hans", "Hant", "Jpan"} else " ").join(pieces)


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for mark in _END.finditer(line := line.rstrip()):
        if _ends_sentence(line, start, mark):
            yield line[start : mark.end()].strip()
            start = mark.end()
    if rest := line[start:].strip():
        yield rest


def _ends_sentence(line: str, start: int, mark: re.Match[str]) -> bool:
    before, after = line[max(mark.start() - 1, 0) : mark.start()], line[mark.end() : mark.end() + 1]
    if mark["hard"]:
        return not (mark["hard"] in "．۔" and before.isdigit() and after.isdigit())
    if not after:
        return True
    if not after.isspace():
        return mark["soft"] in "!?." and _is_cjk(before) and _is_cjk(after)  # Chinese typed with ASCII marks
    following = _NEXT.match(line, mark.end())
    if following is None or _is_lower(following[1][0]):
        return False  # a row of dots; a sentence that goes on
    token = _TOKEN.search(line, max(start, mark.start() - 20), mark.start())
    return mark["soft"] != "." or token is None or not _is_abbreviation(token[0], following[1])


def _is_cjk(character: str) -> bool:
    return "\u3040" <= character <= "\u9fff"  # kana and Han


def _is_lower(letter: str) -> bool:
    return letter.islower() and not "\u10d0" <= letter <= "\u10ff"  # Georgian: no capitals, lower case to Unicode


def _is_abbreviation(token: str, following: str) -> bool:
    """Whether the dot after `token` is part of it: an initial, an abbreviation, a German ordinal before a month."""
    if token.isdigit():
        return len(token) <= 2 and _GERMAN_DATE.match(following) is not None
    if token.casefold() in _BEFORE_NUMBER and following[0].isdigit():
        return True
    initials = _INITIALS.fullmatch(token) is not None and (len(token) > 1 or token.isupper())
    return initials or token in _ABBREVIATIONS


def _phrases(sentence: str) -> Iterator[str]:
    """A sentence; a long one in Thai or Lao in phrases, as many together as 200 characters hold."""
    start = 0
    gaps = [gap.end() for gap in _THAI_GAP.finditer(sentence)] if len(sentence) > _THAI_CHARS else []
    for cut, next_cut in pairwise([*gaps, len(sentence)]):
        if next_cut - start > _THAI_CHARS:
            yield sentence[start:cut].strip()
            start = cut
    yield sentence[start:]


def _capped(piece: str, max_chars: int) -> Iterator[str]:
    while len(piece) > max_chars:
        cuts = (found.start() for found in _CUT.finditer(piece, 1, max_chars + 1))
        cut = max((at for at in cuts if at <= max_chars), default=max_chars)
        yield piece[:cut].rstrip()
        piece = piece[cut:].lstrip()
    yield piece
