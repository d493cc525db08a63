"""Word lists of the rules: what follows a cue and is nobody's name, names that radiology gave to things, given names.

Everything is lower case.  The lists are short on purpose: a cue ("Dr.", "read by") finds most names, and a list only
says where a name ends, which words in its place are not one, and which two words in a row are one without a cue.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ORDINARY = _words("""
a about above acute additional after afternoon again age aged ago agree agrees agreed all also am an and another any
are area as at attending available back be because been before below between both but by call called can cannot case
care center central change changes cc clear clinical clinically come compared comparison complete completed concern
concerning conclusion confirm contact continued copy correlate correlation could current currently daily date dated
day days did diagnosis dictated discharge discussed do does done dr drs due during each earlier either electronically
end evaluate evaluation evening exam examination examined examiner except exists extension fax film films final
finding findings first follow followed following followup for former found from full further given had has have having
he hello help her here him his history home hour hours hrs however i if image images imaging impression in including
indication informed initial into is it its just knowledge known lab last late later left less list long made make may
me mean measured midnight minutes month months more morning most mrs ms my near need needed new next night no none
noon nor normal not note noted nothing notified now number obtained of off office old on once one only onto or order
ordered other our out outside over overnight own page paged part per performed phone physician physicians please pm
possible present previous previously prior probable procedure question questions radiology re read reading reason
receipt received recent recommend recommended record regarding repeat report reported reports request requested result
results return reviewed right routine said same scan second section see seen sent series serial she shift shortly show
shown shows side sign signed since so some soon specialist staff stable standard still study such supine supervising
system team technique telephone than that the their them then there these they this those three through time timely
today tonight to tomorrow too two type unchanged under unit unknown until unremarkable up upright upon us use used
using verbal verbally via view views visit ward was we week weeks well were what when where whether which while who
will with within without would year years yes yesterday yet you your admitted alert alerted approved arrived asked
assessed became began believes brought came canceled complained complains contacted conveyed declined denied denies
developed died discharged felt fell gave goes got held imaged intubated lying moved nursing placed positioned
presented presenting presents reclined referred remained remains returned rotated sat scanned scheduled sitting
standing states stood tolerated took transferred underwent went appears demonstrates reveals suggests represents
underlying status chronic mild moderate severe abdomen abnormal abnormality airspace airway angle ankle anterior aorta
aortic apex apical apices arch artery atelectasis atrial atrium axilla axillary azygos base bases basilar bibasilar
bilateral biopsy blood bone bones bony bowel breast bronchial bronchus calcification calcified cancer cardiac
cardiomediastinal cardiomegaly cardiopulmonary cardiovascular carina catheter cava cavity cervical chest clavicle
clips collapse colon compression congestion consolidation contour contours contrast costophrenic cough cyst defect
degenerative density device diaphragm disease drain dyspnea edema effusion effusions elbow emphysema enlarged
enlargement enteric esophagus fever fibrosis fluid focal forearm foreign fracture fractures free gas gastric granuloma
heart hemidiaphragm hernia hiatal hila hilar hilum hip humerus hyperinflation hypertension infection infiltrate
inferior inspiration interstitial interval intact jugular kidney knee lateral lead leads lesion line lines liver lobe
lower lumbar lung lungs lymph mass mediastinal mediastinum medial mid middle midline mitral nodule nodules opacities
opacity osseous pacemaker pain patchy pericardial perihilar picc pleura pleural pneumonia pneumothorax port position
posterior postoperative preoperative prominent pulmonary renal rib ribs scar scarring sepsis shoulder silhouette skin
skeletal small soft spine spleen spondylosis sternal sternotomy stomach structures subclavian subcutaneous superior
surgery surgical thoracic thorax tip tissue tissues trachea tracheal tracheostomy trauma tricuspid tube tubes tumor
upper valve vascular vascularity vasculature vein venous ventricle ventricular vertebral vessels volume volumes wall
wedge wires wrist zone zones ap pa lat ct mr mri mra cxr pet dx cr ekg ecg ed er icu micu sicu nicu picu ccu cvicu
pacu iv ij svc ivc ett ngt ogt cvl cvc cabg copd chf htn dm ckd esrd hiv tb mva mvc mi pe dvt afib sob cp uti gi gu
gyn obgyn ob ent md np rn pcp pmd pgy ordering provider providers resident residents fellow fellows intern nurse
nurses practitioner surgeon surgeons attendings consultant consultants hospitalist hospitalists technologist
technologists technician tech techs radiologist radiologists radiographer radiographers department departments
emergency intensive operating recovery room clinic clinician clinicians doctor doctors patient patients service
services medicine internal oncology cardiology pulmonology neurology neurosurgery nephrology urology orthopedics
orthopedic pediatrics pediatric geriatrics anesthesia anesthesiology pathology psychiatry dermatology gastroenterology
hematology obstetrics gynecology otolaryngology ophthalmology endocrinology rheumatology transplant hepatology primary
associate assistant assistants chief senior junior head member members family wife husband mother father daughter son
brother sister partner guardian spouse parent parents caller covering caring referring responsible on-call oncall
floor dept div division hospital hospitals bed place stay course location portable mobile erect semi-erect male female
man woman gentleman lady boy girl adult child infant newborn neonate baby sex gender dob mrn name names mondays monday
tuesday wednesday thursday friday saturday sunday january february march april june july august september october
november december jan feb mar apr jun jul aug sep sept oct nov dec accession account addendum address allergies
allergic assessment authenticated author bilaterally body cause class code comment comments complications conditions
critical degree description digital dose emergent error event events evidence examinations exposure fellowship flow
frontal general grade group hand height hx id immediate immediately information institute institution instructions
interpretation interpreted interpreting isolated label labelled level limited lordotic marker markers message method
modality negative nonspecific notification oblique observation observations opinion oxygen pending personally
pertinent positive post preliminary principal priority protocol quality radiograph radiographs radiography rapid
reference referral release repeated review revised sample screening severity signature single site size source
specimen staging start stat statement subsequent summary support symptoms term test timeout transcribed transcription
transport treatment undergoing unavailable underpenetrated unspecified update updated urgent verified video wet weight
x-ray xray xr years-old yo addendums attested confirmation dictation dictating electronic facility faxed finalized
generated modified acknowledged advised aware answered answering asap attempt awaiting calls communicated
communication conference consult consulted consulting conversation direct directly email emailed expressed
findings/impression interviewed messages paging person physically presence relayed repeatedly respectively secure
sending speaking spoke spoken team/ texted understanding voicemail written acquired checked edited entered prepared
published recorded rotation unable positioning motion condition taking being hasn't pod high low raise recalled
breathing cooperation sugerencia paciente nombre estudio tórax fecha médico doctora hallazgos sin con por para los las
una del el la y en shunt syndrome operation prosthesis filter graft stent node nodes bodies phenomenon classification
criteria index score scale law deformity disease/ maneuver projection catheters closure repair anomaly malformation
diverticulum
""")  # fmt: skip
"""Words that may follow a cue without being a name; also what ends a name in a text of capitals."""

EPONYMS = _words("""
kerley swan ganz swan-ganz hampton westermark foley hickman broviac groshong quinton dobhoff dobbhoff dob-hoff salem
levin sengstaken blakemore ewald fleischner harrington hamman bochdalek morgagni pancoast ghon ranke hodgkin hodgkins
kaposi wegener wegeners marfan marfans turner ehlers danlos eisenmenger ebstein fallot blalock taussig fontan glenn
mustard senning rastelli norwood starr edwards bjork shiley jude carpentier hancock medtronic amplatzer amplatz denver
leveen ivor lewis nissen toupet whipple heller roux cobb schmorl schmorls scheuermann scheuermanns hill sachs
hill-sachs bankart paget pagets klippel feil sprengel poland monod golden chilaiditi riedel bucky trendelenburg fowler
fowlers semi-fowler valsalva mueller doppler gleason child pugh child-pugh hounsfield greenfield gunther simon bivona
passy muir passy-muir jackson pratt jackson-pratt hemovac penrose malecot mallory weiss boerhaave zenker zenkers
barrett barretts crohn crohns addison cushing graves hashimoto sjogren still behcet takayasu kawasaki churg strauss
churg-strauss goodpasture caplan loffler loeffler macleod swyer james swyer-james kartagener young castleman
castlemans langerhans erdheim chester rosai dorfman ewing ewings askin pott potts lemierre mendelson macklin naclerio
stanford debakey kommerell windermere cooley down downs alzheimer alzheimers parkinson parkinsons huntington chagas
gaucher hurler hunter noonan williams digeorge chiari budd budd-chiari horner horners tietze bernard mounier-kuhn
mounier kuhn felson fraser port-a-cath portacath mediport permacath tesio pleurx heimlich yankauer macintosh luer
riata sprint fidelis charcot maier sharpey garland fick starling frank frank-starling framingham allen virchow
troisier sister joseph rotter spigelian littre richter petit riolan
""")  # fmt: skip
"""Persons and places that became things; they are not masked for standing somewhere in capitals."""

FIRST_NAMES = _words("""
aaron abdul abel abigail abraham adam adele adrian adriana agnes ahmed aisha alan albert alberto alejandra alejandro
alex alexander alexandra alexis alfred alfredo alice alicia alison alistair amanda amelia amir amy ana anastasia andre
andrea andreas andrew angela angelica angelina anita ann anna anne annette annie antoine anthony antonio april armando
arnold arthur arturo ashley audrey austin barbara barry beatrice beatriz becky ben benjamin bernard bernice beth
bethany betty beverly billy bob bobby bonnie brad bradley brandon brenda brendan brent brett brian bridget bruce bruno
bryan caitlin calvin cameron carl carla carlos carmen carol caroline carolyn carrie casey catherine cathy cecilia
charlene charles charlotte chelsea cheryl chloe chris christina christine christopher cindy claire clara clarence
claudia clifford clyde colin colleen connie connor constance corey cornelius courtney craig crystal curtis cynthia
daisy dale damian dan dana daniel daniela danielle danny darlene darrell daryl dave david deborah debra denise dennis
derek derrick diana diane diego dmitri dolores dominic don donald donna doris dorothy doug douglas duane dustin dylan
earl eddie edgar edith edna eduardo edward edwin eileen elaine eleanor elena eli elias elijah elisabeth elizabeth ella
ellen elliot elsie emeka emil emily emma enrique eric erica erik erika erin ernest esther ethan ethel eugene eva evan
evelyn faith fatima felix fernando fiona florence floyd frances francesca francis francisco franklin fred frederick
gabriel gabriela gail gary gene geoffrey george georgia gerald geraldine gerard gertrude gilbert gina giovanni gladys
gloria gordon greg gregory guadalupe guillermo gustavo gwendolyn hannah hans harold harriet harry harvey hassan hazel
heather hector heidi helen helena henry herbert herman hilda holly horace howard hugh hugo ian ibrahim ida ignacio
ingrid inga irene iris irma isaac isabel isabella ivan jack jackie jacob jacqueline jaime jamal james jamie jan jane
janet janice jared jasmine jason javier jay jean jeanette jeff jeffrey jennifer jeremy jerome jerry jesse jessica
jesus jill jim jimmy joan joann joanna joanne joe joel johan johanna john johnny jon jonathan jordan jorge jose josef
joseph josephine joshua joyce juan juanita judith judy julia julian julie julio june justin karen karim karl karla
kate katherine kathleen kathryn kathy katie keith kelly ken kenneth kevin khalid kim kimberly klaus kristen kristin
kurt kyle lance larry laura lauren laurence laurie lawrence leah lena leo leon leonard leonardo leroy leslie lester
lewis liam lillian lily linda lindsay lisa lloyd lois lorenzo loretta lori lorraine louis louise lucas lucia lucille
lucy luis luke lydia lynn mabel madeline manuel marcia marco marcus margaret margarita marguerite maria marian
marianne marie marilyn mario marion marjorie marlene marsha marshall martha martin martina marvin mary mateo matilda
matthew maureen maurice max maxine megan mei melanie melissa mercedes meredith michael michele michelle miguel mike
mildred milton minnie miriam mitchell mohamed mohammed molly monica morgan muhammad myra myrtle nadia nancy naomi
natalia natalie nathan nathaniel neil nelson nicholas nicole nikolai nina noah nora norma norman olga oliver olivia
omar oscar otto owen pablo pamela patricia patrick paul paula pauline pedro peggy penny percy peter philip phillip
phyllis pierre priscilla priya rachel rafael ralph ramon ramona randall randy raul ravi ray raymond rebecca regina
reginald renee rhonda ricardo richard rick ricky rita robert roberta roberto robin rochelle rodney rodrigo roger
roland ron ronald rosa rosalie rosalind rosemary ross roy ruben rudolf rudy rupert russell ruth ryan sabrina sally
salvador sam samantha samir samuel sandra sanjay sara sarah scott sean sebastian sergei sergio seth shannon sharon
shawn sheila shelley sherry shirley silvia simon sofia sonia sophia sophie stacy stanley stella stephanie stephen
steve steven stewart stuart susan suzanne sven sylvia tamara tammy tanya tara ted teresa terry thelma theodore theresa
thomas tiffany tim timothy tina todd tom tommy tony tracy travis trevor tyler ursula valerie vanessa vera verna vernon
veronica vicki victor victoria vincent viola violet virginia vivian vladimir wallace walter wanda warren wayne wei
wendy wesley wilhelm wilhelmina willard william willie wilma winifred xavier yolanda yusuf yvonne zachary zoe joaquín
lucía josé jesús maría sofía andrés ángel inés jürgen günther björn françois rené
""")  # fmt: skip
"""Given names; with a capital and a second capitalised word behind them they are taken for a person."""

PARTICLES = _words("van von der den de del della di da dos das du la le los las y bin ibn ben al el ter ten af zu st")
"""Small words inside a surname."""

INSTITUTION_FILLERS = _words("""
occupational behavioral mental home st saint
general memorial regional community university city county national royal children's childrens women's womens veterans
affairs state district central north south east west northern southern eastern western medical health healthcare heart
cancer kidney dialysis surgical surgery trauma rehabilitation rehab imaging radiology nursing urgent care center
centre teaching academic public private military army naval federal municipal local outpatient inpatient specialty va
eye pain sleep wound breast lung chest vascular family walk-in referring outside other our this that same another
prior the a an at from in to of and or for with via hospital clinic assisted skilled long term acute level advanced
primary new emergency department oncology cardiology pulmonary orthopedic pediatric dental diagnostic group associates
stroke ii iii
""")  # fmt: skip
"""Words in the name of a place of care that say of what kind it is, not which one."""
