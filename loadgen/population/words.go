package population

import "strings"

// words are what bodies are made of, roughly the more common first. Changing them changes
// every body of every plan.
var words = strings.Fields(`
the to and you of in it is that for on my me we be have are not so do this at with but just was if your all will can like
know get out go up what now good when see one got love time how day about no going more they think too want then there
here today from home need back or some as he she really him her had did work night make tomorrow well right still come
would could should over off down been were has who where why again great thanks thank please sorry yes okay sure maybe
never always something anything nothing everyone people friend friends week weekend morning evening tonight later soon
hope feel look call phone text message email photo picture video music movie book game party dinner lunch breakfast
coffee beer food house school class teacher student college exam paper project meeting office boss team company money
price ticket train plane flight airport hotel beach summer winter spring autumn weather rain snow cold warm happy birthday
christmas holiday vacation trip travel drive car road street city town country family mother father brother sister baby
kids children boy girl man woman wife husband wedding doctor hospital sick better worse best worst nice bad funny crazy
beautiful awesome amazing terrible perfect strange weird boring busy tired hungry asleep awake early late ready almost
finally actually probably definitely exactly especially usually sometimes often already yet ago since until before after
during between under above behind around through without against along across toward inside outside near far away left
first second third last next another other same different new old young big small little long short high low fast slow
easy hard heavy light dark bright clean dirty full empty open closed cheap expensive free important possible impossible
problem question answer idea reason story news word letter number list page line minute hour month year moment future
past beginning end middle part half whole piece side top bottom front place room kitchen bathroom bedroom door window
table chair floor wall garden tree flower dog cat bird fish horse water fire earth sky moon star sun wind sea river
mountain island bridge church market shop store bank library museum park station corner building apartment neighbor
computer laptop internet website password account address camera screen battery machine engine bike boat bus truck
football basketball soccer tennis match race score winner player coach season league stadium concert band song guitar
piano dance theater stage festival opera gallery painting poem novel author magazine newspaper radio television
channel program episode series actor actress director scene joke laugh smile cry shout whisper sing play run walk jump
swim climb ride fly fall stand sit sleep wake dream eat drink cook bake taste smell touch hear listen watch read write
draw paint build break fix repair buy sell pay cost spend save borrow lend give take bring send receive keep lose find
search hide show teach learn study practice remember forget understand explain believe trust doubt guess decide choose
agree disagree argue fight forgive promise plan prepare start begin finish stop continue wait hurry arrive leave stay
return visit meet join invite welcome introduce marry move change turn push pull throw catch carry hold drop lift cut
wear dress shirt shoes jacket hat glasses ring belt pocket bag box bottle cup glass plate knife fork spoon
bread butter cheese milk egg meat chicken beef salad soup pasta pizza rice potato tomato onion garlic apple orange
banana lemon strawberry chocolate cake cookie candy sugar salt pepper oil wine juice tea mustard dessert recipe
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
october november december anna james maria david laura peter julia thomas sarah michael emma daniel sophie martin
london paris berlin madrid rome vienna dublin boston chicago denver seattle austin brooklyn tokyo sydney toronto
government election president minister law court judge police crime prison lawyer witness evidence truth lie secret
history science biology chemistry physics mathematics economics philosophy psychology engineering medicine research
experiment result theory example method system structure process function value rate amount level degree increase
reduce improve develop create produce provide support protect control manage organize arrange measure compare describe
report mention discuss suggest recommend require request offer accept refuse allow avoid prevent cause effect influence
energy power electricity turbine gas coal metal gold silver iron steel wood stone marble plastic cotton leather wool
schedule appointment deadline contract invoice budget salary interview position department manager colleague customer
client service delivery package order receipt refund warranty insurance mortgage rent landlord tenant furniture carpet
curtain blanket pillow towel mirror shower toilet sink oven fridge freezer dishwasher laundry vacuum broom bucket ladder
hammer nail screw drill rope chain lock key umbrella suitcase passport visa border customs luggage platform carriage
harbor lighthouse valley forest desert volcano glacier waterfall canyon meadow orchard vineyard barn fence tractor
wheat corn barley sheep goat pig cow donkey rabbit squirrel fox wolf bear deer eagle owl sparrow penguin dolphin whale
shark turtle frog snake spider butterfly bee ant mosquito headache fever cough allergy vitamin tablet bandage surgery
dentist therapist nurse ambulance emergency accident injury recovery exercise yoga muscle shoulder elbow knee ankle
finger thumb forehead eyebrow cheek chin throat stomach lung heart brain bone blood skin nerve memory attention emotion
anger joy fear grief shame pride envy relief courage patience kindness honesty wisdom curiosity imagination ambition luck
quietly suddenly carefully gently quickly slowly loudly softly happily sadly badly nearly hardly barely mostly partly
fully entirely completely absolutely basically literally seriously honestly obviously apparently eventually recently
currently previously originally normally generally particularly relatively extremely incredibly surprisingly unfortunately
haha lol omg btw hey hi hello bye hugs xoxo yeah yep nope hmm wow oops dude guys gonna wanna gotta kinda sorta thx pls
`)
