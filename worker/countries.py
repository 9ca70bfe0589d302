"""Countries by the codes and names that upstreams write, as ISO 3166-1 alpha-2."""

from functools import cache, lru_cache
from typing import Final

_CODES: Final = (
    "ABWAW AFGAF AGOAO AIAAI ALAAX ALBAL ANDAD AREAE ARGAR ARMAM ASMAS ATAAQ ATFTF ATGAG AUSAU AUTAT AZEAZ "
    "BDIBI BELBE BENBJ BESBQ BFABF BGDBD BGRBG BHRBH BHSBS BIHBA BLMBL BLRBY BLZBZ BMUBM BOLBO BRABR BRBBB "
    "BRNBN BTNBT BVTBV BWABW CAFCF CANCA CCKCC CHECH CHLCL CHNCN CIVCI CMRCM CODCD COGCG COKCK COLCO COMKM "
    "CPVCV CRICR CUBCU CUWCW CXRCX CYMKY CYPCY CZECZ DEUDE DJIDJ DMADM DNKDK DOMDO DZADZ ECUEC EGYEG ERIER "
    "ESHEH ESPES ESTEE ETHET FINFI FJIFJ FLKFK FRAFR FROFO FSMFM GABGA GBRGB GEOGE GGYGG GHAGH GIBGI GINGN "
    "GLPGP GMBGM GNBGW GNQGQ GRCGR GRDGD GRLGL GTMGT GUFGF GUMGU GUYGY HKGHK HMDHM HNDHN HRVHR HTIHT HUNHU "
    "IDNID IMNIM INDIN IOTIO IRLIE IRNIR IRQIQ ISLIS ISRIL ITAIT JAMJM JEYJE JORJO JPNJP KAZKZ KENKE KGZKG "
    "KHMKH KIRKI KNAKN KORKR KWTKW LAOLA LBNLB LBRLR LBYLY LCALC LIELI LKALK LSOLS LTULT LUXLU LVALV MACMO "
    "MAFMF MARMA MCOMC MDAMD MDGMG MDVMV MEXMX MHLMH MKDMK MLIML MLTMT MMRMM MNEME MNGMN MNPMP MOZMZ MRTMR "
    "MSRMS MTQMQ MUSMU MWIMW MYSMY MYTYT NAMNA NCLNC NERNE NFKNF NGANG NICNI NIUNU NLDNL NORNO NPLNP NRUNR "
    "NZLNZ OMNOM PAKPK PANPA PCNPN PERPE PHLPH PLWPW PNGPG POLPL PRIPR PRKKP PRTPT PRYPY PSEPS PYFPF QATQA "
    "REURE ROURO RUSRU RWARW SAUSA SDNSD SENSN SGPSG SGSGS SHNSH SJMSJ SLBSB SLESL SLVSV SMRSM SOMSO SPMPM "
    "SRBRS SSDSS STPST SURSR SVKSK SVNSI SWESE SWZSZ SXMSX SYCSC SYRSY TCATC TCDTD TGOTG THATH TJKTJ TKLTK "
    "TKMTM TLSTL TONTO TTOTT TUNTN TURTR TUVTV TWNTW TZATZ UGAUG UKRUA UMIUM URYUY USAUS UZBUZ VATVA VCTVC "
    "VENVE VGBVG VIRVI VNMVN VUTVU WLFWF WSMWS YEMYE ZAFZA ZMBZM ZWEZW"
)
_ALPHA2: Final = frozenset(code[3:] for code in _CODES.split())
_ALPHA3: Final = {code[:3]: code[3:] for code in _CODES.split()}
# What is written beside the codes and the names that libphonenumber knows.
_OTHERS: Final = {
    "england": "GB",
    "great britain": "GB",
    "northern ireland": "GB",
    "scotland": "GB",
    "uk": "GB",
    "united states of america": "US",
    "wales": "GB",
}
_LONGEST: Final = 100


def alpha2(text: str) -> str | None:
    """Return the ISO 3166-1 alpha-2 code of a country given by either of its codes or its name in any language.

    None if `text` names no country. The names are libphonenumber's (from the Unicode CLDR).
    """
    return text if text in _ALPHA2 else _look_up(text) if len(text) <= _LONGEST else None


@lru_cache(1024)
def _look_up(text: str) -> str | None:
    name = text.strip()
    code = name.replace(".", "").upper()
    if code in _ALPHA2:
        return code
    folded = name.casefold()
    return _ALPHA3.get(code) or _OTHERS.get(folded) or _OTHERS.get(code.casefold()) or _names().get(folded)


@cache
def _names() -> dict[str, str]:
    # Two megabytes and a fifth of a second: only loaded where an upstream writes names.
    from phonenumbers.geodata.locale import LOCALE_DATA  # ruff: ignore[import-outside-top-level] - as said

    return {
        name.casefold(): region
        for region, names in LOCALE_DATA.items()
        for name in names.values()
        if not name.startswith("*") and region in _ALPHA2
    }
