"""What is known of given names: which stand for one another, and which are names in their own right.

Bob and Robert may be one person. Carol and Carlo, or Christian and Christina, are two, although they are but a typing
error apart; Nichoals, which is nobody's name, is Nicholas.
"""

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

# One name in several spellings, beyond doubled letters.
_SPELLINGS: Final = """
aidan aiden|alan allen|alejandro alexandro|alison allyson|amy aimee|andre andrei|angie angy|ann anne|anton antoine|
ashley ashlee ashleigh|barry barrie|bret brett|brian bryan|brianna breanna briana|brittany britney|caitlin kaitlin kaitlyn
katelyn|carl karl|carla karla|carol carole caryl|caroline carolyn|catherine katherine kathryn catharine katharine cathryn|
cecil cecile|cheryl sheryl|christian cristian|christina kristina cristina|christine kristine|christy kristi kristy christie|
claire clare clair|conor connor|craig kraig|danielle daniele|darren daren darrin|darryl darrell daryl|deborah debra|dennis
denis|diana dianna|diane dianne|dominic dominick|edith edyth|eileen aileen|elisabeth elizabeth|elliot eliot|eric erik erick|
erica erika ericka|evelyn evelin|francis frances|gail gayle|geoffrey jeffrey jeffery|georgina georgena|gerard gerrard|glen|
glynn|grace gracie|graham graeme|gregory greggory|hailey haley hayley|helen helene|ian iain|isabel isobel isabelle|jaclyn|
jacqueline|jamie jaime|jane jayne|janet janette|jean jeanne|jodi jody jodie|john jon|jonathan johnathan jonathon|joseph josef|
judith judy|julia juliah|julian julien|kara cara|karen karin karyn|kathleen cathleen|kathy cathy|katie katy|kelly kelli kellie
kelley|kerry kerri|kim kym|kimberly kimberley|kristen kristin kirsten|kurt curt|laurence lawrence|leah lea lia|lee leigh|leslie
lesley|linda lynda|lindsay lindsey|lisa leesa|louis luis lewis|louise luise|lucas lukas|lucy luci|lynn lynne|madeline madeleine
madelyn|marc mark|margaret margret|maria mariah|marian marion|marie mary|marilyn marylin|martin marten|mathew matthew|megan
meagan meghan|melissa melisa|michael micheal mikel|michaela mikaela mikayla|michelle michele|mohammed mohamed muhammad|monica
monika|nancy nanci|natalie nathalie|nicholas nicolas|nicole nichole|patricia patrice|peter pieter|philip phillip|rachel rachael|
raphael rafael|rebecca rebekah|rhonda ronda|robyn robin|roger rodger|ronnie ronny|sally sallie|sandra sondra|sara sarah|sean
shaun shawn|shannon shanon|sharon sharron|sherry sheri sherri shari cheri|sofia sophia|sonia sonya sonja|stacy stacey staci|
stephanie stefanie|stephen steven stephan|stewart stuart|sue su|susan suzan|susanna susannah|suzanne susanne|sylvia silvia|tammy
tami|tara tarah|taylor tayla taylah|teresa theresa|terri terry teri|thomas tomas|tiffany tiffani|toni tony|tracy tracey traci
tracie|trevor trevar|vicky vicki vickie|vincent vincente|vivian vivien vivienne|wendy wendi|william wiliam|yvonne ivonne|zachary
zachery zackary|zoe zoey
"""

# The full name stands first; two short forms of one name may well be two people: Beth and her sister Lisa.
FORMS: Final[dict[str, set[str]]] = {}
for _group in _GROUPS.strip().replace("\n", "|").split("|"):
    _full, *_short = _group.split()
    FORMS.setdefault(_full, set()).update(_short)
for _group in " ".join(_SPELLINGS.split()).split("|"):
    for _name in _group.split():
        FORMS.setdefault(_name, set()).update(_group.split())


def related(one: str, other: str) -> bool:
    """Return whether of two given names (lower case) one is a short form, or another spelling, of the other."""
    return other in FORMS.get(one, ()) or one in FORMS.get(other, ())


_KNOWN: Final = """
aaliyah aaron abby abigail abraham adam addison adele adrian adriana adrienne agnes aidan aiden aileen aimee alan alana
alannah albert alberta alberto aldo alec alejandra alejandro alex alexa alexander alexandra alexandria alexia alexis
alfred alfredo alice alicia alisha alison alissa allan allen allison alma alvin alyssa amanda amber amelia amelie amos
amy ana andre andrea andreas andres andrew andy angel angela angelica angelina angelo angie anika anita ann anna annabel
annabelle anne annette annie anthony antoine antonia antonio april archie ariana ariel arlene armando arnold art arthur
arturo ashlee ashleigh ashley ashton astrid athena aubrey audrey august augustus aurora austin autumn ava avery axel
bailey barbara barney barry beatrice becky bella ben benjamin bernadette bernard bernice bert bertha beryl bessie beth
bethany betsy betty beverly bianca bill billie billy blake blanche bob bobby bonnie boris brad bradley brady brandi
brandon brandy breanna brenda brendan brenna brent bret brett brian briana brianna bridget brittany brock brody brooke
bruce bruno bryan bryce bryson caitlin caleb callum calvin cameron camila camille campbell candace candice cara carl
carla carlo carlos carly carmel carmen carol carole carolina caroline carolyn carrie carter casey cassandra cassidy
catherine cathy cecil cecilia cedric celeste celia cesar chad chance chandler chantel charlene charles charlie charlotte
chase chelsea chelsey cherie cheryl chester chloe chris christa christian christie christina christine christopher
christy cindy claire clara clarence clark claude claudia clay clayton clifford clifton clint clinton clyde cody colby
cole colin colleen connie connor conor conrad constance cooper cora corey corinne cornelius cory courtney craig cristina
crystal curtis cynthia cyrus daisy dakota dale dallas damian damien damon dan dana daniel daniela daniella danielle
danny daphne darcy daren daria darla darlene darrell darren darryl daryl dave david dawn dean deanna debbie deborah
debra declan deirdre delia della delores denis denise dennis derek derrick desiree desmond devin devon diana diane
dianna dianne diego dillon dina dolores dominic dominique don donald donna dora doreen doris dorothy doug douglas drew
duane dustin dwayne dwight dylan earl ebony eddie edgar edith edmund eduardo edward edwin eileen elaine eleanor elena
eli elias elijah elise eliza elizabeth ella ellen ellie elliot elliott ellis elmer eloise elsa elsie elvira emanuel
emerson emery emilia emilio emily emma emmanuel enrique eric erica erick ericka erik erika erin ernest ernesto esteban
estelle esther ethan ethel eugene eunice eva evan evangeline eve evelyn ezekiel ezra faith fatima faye felicia felicity
felipe felix fernando finn fiona flora florence floyd frances francesca francis francisco frank frankie franklin fred
freda freddie frederick freya gabriel gabriela gabriella gabrielle gail garrett garry gary gavin gemma gene genevieve
geoffrey george georgia georgina gerald geraldine gerard gertrude gianna gilbert gina ginger giovanni gladys glen glenda
glenn gloria gordon grace gracie graham grant greg gregory greta guadalupe guillermo gustavo guy gwen gwendolyn hailey
haley hallie hamish hannah harley harold harriet harrison harry harvey hayden hayley hazel heath heather hector heidi
helen helena henrietta henry herbert herman hilary hilda holly hope howard hubert hudson hugh hugo hunter ian ibrahim
ida ignacio imogen ines ingrid ira irene iris irma irving isaac isabel isabella isabelle isaiah isla ismael israel ivan
ivy jace jack jackie jackson jaclyn jacob jacqueline jade jaime jake james jamie jan jana jane janelle janet janice
janine jared jasmine jason jasper javier jay jayden jayne jean jeanette jeanne jeff jeffery jeffrey jenna jennie
jennifer jenny jeremiah jeremy jermaine jerome jerry jesse jessica jessie jesus jill jillian jim jimmy jo joan joann
joanna joanne jocelyn jodi jodie jody joe joel joey johanna john johnathan johnny jon jonah jonas jonathan jordan jorge
jose joseph josephine josh joshua josiah josie joy joyce juan juana juanita judith judy julia julian juliana julianne
julie juliet julio julius june justin justine kaitlin kaitlyn kara karen kari karin karina karl karla kate katelyn
katharine katherine kathleen kathryn kathy katie katrina kay kayla kaylee keira keith kelley kelli kellie kelly kelsey
kelvin ken kendra kenneth kent kerry kevin kiara kieran kim kimberley kimberly kira kirk kirsten kirsty krista kristen
kristi kristin kristina kristine kristy krystal kurt kyle kylie lachlan lana lance lara larissa larry latoya laura
lauren laurence laurie lawrence layla lea leah leanne lee leigh leila lena leo leon leona leonard leonardo leroy leslie
lester leticia levi lewis liam lillian lillie lily lincoln linda lindsay lindsey lionel lisa liz lloyd logan lois lola
lora loren lorena lorenzo loretta lori lorna lorraine louis louisa louise lucas lucia lucille lucinda lucy luis luke
lula luna lydia lyle lynda lynette lynn lynne mabel mackenzie macy maddison madeleine madeline madison mae maggie malachi
malcolm mallory mandy manuel mara marc marcel marcella marcia marco marcos marcus margaret margarita margie maria mariah
marian mariana marianne marie marilyn mario marion marisa marissa marjorie mark marlene marlon marsha marshall martha
martin martina marvin mary mason mateo mathew matilda matthew maureen maurice max maxine maxwell maya meagan megan meghan
melanie melinda melissa melody melvin mercedes meredith mia micah michael michaela micheal michele michelle miguel mikaela
mike mikayla mila mildred miles milton mindy minnie miranda miriam misty mitchell moira molly mona monica monique morgan
morris moses muriel myra myrtle nadia nadine nancy naomi natalia natalie natasha nathan nathaniel neil nellie nelson nettie
nevaeh nia nicholas nichole nick nicolas nicole nigel nina noah noel nolan nora noreen norma norman olga olive oliver
olivia omar opal ophelia oscar otis owen pablo paige paloma pam pamela paris parker pat patrice patricia patrick patsy
patti patty paul paula paulette paulina pauline pearl pedro peggy penelope penny percy perry peter peyton phil philip
phillip phoebe phyllis pierre piper polly porter preston priscilla quentin quinn rachael rachel rafael ralph ramon ramona
randal randall randy raquel raul raven ray raymond rebecca reece reese regina reginald rene renee reuben rex rhonda ricardo
richard rick ricky riley rita rob robert roberta roberto robin robyn rochelle roderick rodney rodrigo roger roland roman
ron ronald ronan ronnie rory rosa rosalie rosalind rosalyn rosanna rose rosemarie rosemary rosie ross rowan roxanne roy
ruben ruby rufus russell ruth ryan sabrina sadie sally salvador sam samantha samara samir samuel sandra sandy santiago sara
sarah sasha saul savannah scarlett scott sean sebastian selena selina serena sergio seth shana shane shania shannon shari
sharon shaun shauna shawn sheila shelby sheldon shelia shelley shelly sheri sherri sherry sheryl shirley sidney sienna sierra
silvia simon simone skye skylar sofia sonia sonja sonya sophia sophie spencer stacey stacy stanley stella stephan stephanie
stephen steve steven stewart stuart sue summer susan susanna susanne suzanne sybil sydney sylvia sylvie tabitha talia tamara
tami tammy tania tanner tanya tara tasha tatiana taylah taylor ted teresa teri terrance terrence terri terry tessa thelma
theo theodore theresa thomas tiffany tim timothy tina toby todd tom tommy toni tony tonya tori tracey traci tracie tracy
travis trent trevor tricia trina trinity tristan troy tyler tyrone tyson ursula valerie vanessa vera verna vernon veronica
vicki vickie vicky victor victoria vincent viola violet virginia vivian viviana vivienne wade wallace walter wanda warren
wayne wendell wendy wesley whitney wilbur wilfred will willa william willie willow wilma winifred winston wyatt xavier yasmin
yolanda yvette yvonne zac zachary zachery zane zara zoe
"""

KNOWN: Final[frozenset[str]] = frozenset(_KNOWN.split()) | FORMS.keys()
