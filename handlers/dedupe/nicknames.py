"""Given names that stand for one another, so that Bob and Robert are not held for two people."""

from typing import Final

_GROUPS: Final = """
abigail abby gail|alexander alex alec sandy xander|alexandra alex sandra sandy lexi|alfred al fred alfie
andrew andy drew|anthony tony|antonio tony|barbara barb babs|benjamin ben benny benji|bernard bernie
catherine cathy kate katie cat|katherine kathy kate katie kat kay|kathleen kathy kath|charles charlie chuck chas
christine chris chrissy tina|christina chris tina christy|christopher chris kit topher|cynthia cindy|daniel dan danny
david dave davey|deborah deb debbie|donald don donny|dorothy dot dottie|douglas doug|edward ed eddie ted ned
eleanor ellie nell|elizabeth liz lizzie beth betty eliza lisa libby|emily em|eugene gene|frances fran franny
francis frank|franklin frank|frederick fred freddy|gabriel gabe|geoffrey geoff|gerald gerry jerry|gregory greg
harold harry hal|henry harry hank|isabella bella izzy|jacob jake|jacqueline jackie|james jim jimmy jamie
janet jan|jeffrey jeff|jennifer jen jenny|jessica jess jessie|john johnny jack jon|jonathan jon johnny|joseph joe joey
joshua josh|judith judy|kenneth ken kenny|kimberly kim|lawrence larry|leonard len leo lenny|leslie les|louis lou
margaret maggie meg peggy marge rita|matthew matt|michael mike mick mickey|nancy nan|nathaniel nate nat|nathan nate
nicholas nick nicky|nicole nicky nikki|pamela pam|patricia pat patty tricia trish|patrick pat paddy|peter pete
philip phil|phillip phil|raymond ray|rebecca becky becca|richard rick dick rich richie ricky|robert bob rob bobby robbie
ronald ron ronny|rosemary rose|samantha sam|samuel sam sammy|sandra sandy|solomon sol|stephanie steph|stephen steve
steven steve|stuart stu|sullivan sully|susan sue susie|suzanne sue suzie|theodore ted theo teddy|theresa terry tess
thomas tom tommy|timothy tim timmy|valerie val|vanessa nessa|veronica ronnie|victor vic|victoria vicky tori
vincent vince|virginia ginny|walter walt wally|wayne|william bill will billy willy liam|zachary zach zack
"""

# The full name stands first; two short forms of one name may well be two people: Beth and her sister Lisa.
FORMS: Final[dict[str, set[str]]] = {}
for _group in _GROUPS.replace("\n", "|").split("|"):
    _full, *_short = _group.split() or [""]
    FORMS.setdefault(_full, set()).update(_short)


def related(one: str, other: str) -> bool:
    """Return whether of two given names (lower case) one is a short form of the other."""
    return other in FORMS.get(one, ()) or one in FORMS.get(other, ())
