"""Names, places and reserved telephone numbers of the synthetic customers, by country.

Every telephone number is in a range that its regulator keeps for fiction (NANPA 555-0100 to 0199, Ofcom, ARCEP, PTS).
Norway keeps none, so Norwegians carry foreign numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Locale(NamedTuple):
    """One country's people."""

    tag: str
    country: str
    weight: int
    given: str
    family: str
    streets: str
    cities: str
    """`postcode city state`, separated by commas; the state is `-` where there is none."""


LOCALES = (
    Locale(
        "en-US", "US", 10,
        "James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara Richard Susan "
        "Joseph Jessica Thomas Karen Christopher Sarah Charles Lisa Daniel Nancy Matthew Sandra Anthony Ashley Mark "
        "Emily Steven Kimberly Andrew Donna Joshua Michelle Kevin Carol Brian Amanda Latoya DeShawn Xochitl "
        "Maria-Jose",
        "Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson "
        "Anderson Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis "
        "Robinson Walker Young Allen King Wright Scott Torres Nguyen Hill Flores O'Neill McDonald Okafor Washington",
        "Main St,Oak Ave,Maple Dr,Cedar Ln,Park Blvd,Elm St,Washington Ave,Lake Rd,Hill St,Pine Ct,Sunset Blvd,2nd St",
        "01701 Natick MA,10001 New York NY,60601 Chicago IL,73301 Austin TX,94105 San Francisco CA,98101 Seattle WA,"
        "80202 Denver CO,33101 Miami FL,97201 Portland OR,85001 Phoenix AZ",
    ),
    Locale(
        "nb-NO", "NO", 4,
        "Anne Jan Inger Per Kari Bjørn Marit Ole Ingrid Lars Liv Kjell Eva Knut Åse Svein Berit Arne Astrid Håkon "
        "Bjørg Øyvind Hilde Tor Solveig Sigrid Torbjørn Grete Rune Kjersti",
        "Hansen Johansen Olsen Larsen Andersen Pedersen Nilsen Kristiansen Jensen Karlsen Johnsen Pettersen Eriksen "
        "Berg Haugen Hagen Johannessen Andreassen Jacobsen Dahl Ødegård Åsen Bråthen Bø Sørensen Næss",
        "Storgata,Kirkegata,Skolegata,Bjørnstjerne Bjørnsons gate,Havnegata,Åsveien,Strandveien,Øvre Torggate",
        "0150 Oslo -,5003 Bergen -,7010 Trondheim -,4006 Stavanger -,9008 Tromsø -,6002 Ålesund -,3015 Drammen -",
    ),
    Locale(
        "sv-SE", "SE", 3,
        "Lars Anna Mikael Eva Anders Maria Johan Karin Per Kristina Erik Lena Karl Åsa Jörgen Björn Malin Göran "
        "Märta Örjan Ingela Håkan Ulf Sofia",
        "Andersson Johansson Karlsson Nilsson Eriksson Larsson Olsson Persson Svensson Gustafsson Pettersson "
        "Jonsson Hedström Åkesson Öberg Sjögren Björk Lindström Nyström Ängström",
        "Storgatan,Kungsgatan,Drottninggatan,Östra Vallgatan,Åvägen,Björkvägen,Skolgatan,Södra Promenaden",
        "111 20 Stockholm -,411 05 Göteborg -,211 20 Malmö -,753 20 Uppsala -,582 20 Linköping -,702 10 Örebro -",
    ),
    Locale(
        "en-GB", "GB", 3,
        "Oliver Olivia George Amelia Harry Isla Jack Ava Noah Emily Charlie Sophie Alfie Grace Siân Rhys Niamh "
        "Callum Fiona Hamish Priya Imran Aisha Tariq",
        "Smith Jones Taylor Williams Brown Davies Evans Wilson Thomas Roberts Johnson Lewis Walker Robinson Wood "
        "Thompson White Watson Jackson Wright Patel Khan O'Connor MacLeod Featherstonehaugh",
        "High Street,Station Road,London Road,Church Lane,Victoria Road,Green Lane,Manor Road,The Crescent",
        "SW1A 1AA London -,M1 1AE Manchester -,B1 1BB Birmingham -,LS1 1UR Leeds -,EH1 1YZ Edinburgh -,"
        "CF10 1EP Cardiff -",
    ),
    Locale(
        "de-DE", "DE", 2,
        "Hans Ursula Peter Monika Jürgen Renate Klaus Sabine Günter Käthe Wolfgang Jörg Anneliese Björn Heike Götz "
        "Zoë Uwe Annegret Matthias",
        "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter "
        "Klein Wolf Schröder Neumann Groß Jäger Weiß von_Bülow",
        "Hauptstraße,Bahnhofstraße,Gartenweg,Schulstraße,Goethestraße,Am Markt,Lindenallee,Königsallee",
        "10115 Berlin -,20095 Hamburg -,80331 München -,50667 Köln -,60311 Frankfurt am Main -,70173 Stuttgart -",
    ),
    Locale(
        "fr-FR", "FR", 2,
        "Jean Marie Pierre Nathalie Michel Isabelle André Sylvie Philippe Françoise René Hélène Benoît Zoé Gaëlle "
        "Anaïs Loïc Jean-Luc Anne-Sophie Jérôme",
        "Martin Bernard Thomas Petit Robert Richard Durand Dubois Moreau Laurent Simon Michel Lefèvre Leroy Roux "
        "Bérenger Lévêque François D'Arc de_La_Tour",
        "rue de la Paix,avenue Victor-Hugo,rue de l'Église,place du Marché,boulevard Saint-Michel,allée des Tilleuls",
        "75001 Paris -,69001 Lyon -,13001 Marseille -,31000 Toulouse -,44000 Nantes -,67000 Strasbourg -",
    ),
)  # fmt: skip

US_AREAS = (
    "201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 224 225 228 229 231 234 239 240 248 251 "
    "252 253 254 256 260 262 267 269 270 272 276 281 301 302 303 304 305 307 308 309 310 312 313 314 315 316 317 "
    "318 319 320 321 323 325 330 331 334 336 337 347 351 352 360 361 385 386 401 402 404 405 406 407 408 409 410 "
    "412 413 414 415 417 419 423 424 425 430 432 434 435 440 442 443 469 470 475 478 479 480 484 501 502 503 504 "
    "505 507 508 509 510 512 513 515 516 517 518 520 530 540 541 551 559 561 562 563 567 570 571 573 574 575 580 "
    "585 586 601 602 603 605 606 607 608 609 610 612 614 615 616 617 618 619 620 623 626 630 631 636 641 646 650 "
    "651 660 661 662 678 682 701 702 703 704 706 707 708 712 713 714 715 716 717 718 719 720 724 727 731 732 734 "
    "740 754 757 760 763 765 770 772 773 774 775 781 785 786 801 802 803 804 805 806 808 810 812 813 814 815 816 "
    "817 818 828 830 831 832 843 845 847 848 850 856 857 858 859 860 862 863 864 865 870 878 901 903 904 906 907 "
    "908 909 910 912 913 914 915 916 917 918 919 920 925 928 931 936 937 940 941 947 949 951 952 954 956 970 971 "
    "972 973 978 979 980 985 989"
)
GB_STEMS = "113496 114496 116496 117496 118496 121496 131496 141496 151496 161496 207946 191498 289649 292018"
FR_STEMS = "19900 26191 35301 46571 53649"
SE_RANGES = {"701740": range(605, 700), "313900": range(600, 700), "406280": range(400, 500), "846500": range(400, 500)}


def reserved_phones(country: str) -> Iterator[str]:
    """Yield every E.164 number that the country reserves for fiction, each once; nothing where it reserves none."""
    if country == "US":
        for line in range(100, 200):
            yield from (f"+1{area}555{line:04d}" for area in US_AREAS.split())
    elif country == "GB":
        for line in range(1000):
            yield from (f"+44{stem}0{line:03d}" for stem in GB_STEMS.split())
    elif country == "FR":
        for line in range(10_000):
            yield from (f"+33{stem}{line:04d}" for stem in FR_STEMS.split())
    elif country == "SE":
        for stem, lines in SE_RANGES.items():
            yield from (f"+46{stem}{line}" for line in lines)
