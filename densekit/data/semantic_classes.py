"""Classes of public data sets for semantic segmentation: their names, by number."""

from densekit.data.coco_meta import coco_metadata

__all__ = ["ADE20K", "CAMVID", "PASCAL_CONTEXT", "PASCAL_CONTEXT_IDS", "VOC", "coco_stuff_classes"]


def _split(table: str) -> list[str]:
    return [name.strip() for name in table.replace("\n", " ").split(";")]


# The 150 classes of SceneParse150 as Detectron2 names them; 1 is the first in its label maps.
ADE20K = _split("""
wall; building; sky; floor; tree; ceiling; road, route; bed; window; grass; cabinet; sidewalk, pavement; person;
earth, ground; door; table; mountain, mount; plant; curtain; chair; car; water; painting, picture; sofa; shelf; house;
sea; mirror; rug; field; armchair; seat; fence; desk; rock, stone; wardrobe, closet, press; lamp; tub; rail; cushion;
base, pedestal, stand; box; column, pillar; signboard, sign; chest of drawers, chest, bureau, dresser; counter; sand;
sink; skyscraper; fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs; runway; case, display
case, showcase, vitrine; pool table, billiard table, snooker table; pillow; screen door, screen; stairway, staircase;
river; bridge, span; bookcase; blind, screen; coffee table; toilet, can, commode, crapper, pot, potty, stool, throne;
flower; book; hill; bench; countertop; stove; palm, palm tree; kitchen island; computer; swivel chair; boat; bar;
arcade machine; hovel, hut, hutch, shack, shanty; bus; towel; light; truck; tower; chandelier; awning, sunshade,
sunblind; street lamp; booth; tv; plane; dirt track; clothes; pole; land, ground, soil; bannister, banister,
balustrade, balusters, handrail; escalator, moving staircase, moving stairway; ottoman, pouf, pouffe, puff, hassock;
bottle; buffet, counter, sideboard; poster, posting, placard, notice, bill, card; stage; van; ship; fountain; conveyer
belt, conveyor belt, conveyer, conveyor, transporter; canopy; washer, automatic washer, washing machine; plaything,
toy; pool; stool; barrel, cask; basket, handbasket; falls; tent; bag; minibike, motorbike; cradle; oven; ball; food,
solid food; step, stair; tank, storage tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher; screen;
blanket, cover; sculpture; hood, exhaust hood; sconce; vase; traffic light; tray; trash can; fan; pier; crt screen;
plate; monitor; bulletin board; shower; radiator; glass, drinking glass; clock; flag
""")
ADE20K[8] = "window "  # Detectron2's spelling, by which its users' metadata is compared

# Pascal VOC 2012, in the order of its palette.
VOC = _split("""
background; aeroplane; bicycle; bird; boat; bottle; bus; car; cat; chair; cow; diningtable; dog; horse; motorbike;
person; pottedplant; sheep; sofa; train; tvmonitor
""")

# The 59 classes of PASCAL-Context, each after its number among the 459 of the annotation files.
_CONTEXT = _split("""
2 aeroplane; 9 bag; 18 bed; 19 bedclothes; 22 bench; 23 bicycle; 25 bird; 31 boat; 33 book; 34 bottle; 44 building; 45
bus; 46 cabinet; 59 car; 65 cat; 68 ceiling; 72 chair; 80 cloth; 85 computer; 98 cow; 104 cup; 105 curtain; 113 dog;
115 door; 144 fence; 158 floor; 159 flower; 162 food; 187 grass; 189 ground; 207 horse; 220 keyboard; 232 light; 258
motorbike; 259 mountain; 260 mouse; 284 person; 295 plate; 296 platform; 308 pottedplant; 324 road; 326 rock; 347
sheep; 349 shelves; 354 sidewalk; 355 sign; 360 sky; 366 snow; 368 sofa; 397 table; 415 track; 416 train; 420 tree;
424 truck; 427 tvmonitor; 440 wall; 445 water; 454 window; 458 wood
""")
PASCAL_CONTEXT = [row.split()[1] for row in _CONTEXT]
PASCAL_CONTEXT_IDS = [int(row.split()[0]) for row in _CONTEXT]

# CamVid in the eleven classes of SegNet (arXiv 1511.00561); 11 is unlabelled.
CAMVID = _split("Sky; Building; Pole; Road; Pavement; Tree; SignSymbol; Fence; Car; Pedestrian; Bicyclist")

# COCO-Stuff (arXiv 1612.03716), whose numbers go on after those of COCO's objects: banner is 92.
_STUFF = _split("""
banner; blanket; branch; bridge; building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other; ceiling-tile;
cloth; clothes; clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence; floor-marble; floor-other;
floor-stone; floor-tile; floor-wood; flower; fog; food-other; fruit; furniture-other; grass; gravel; ground-other;
hill; house; leaves; light; mat; metal; mirror-stuff; moss; mountain; mud; napkin; net; paper; pavement; pillow;
plant-other; plastic; platform; playingfield; railing; railroad; river; road; rock; roof; rug; salad; sand; sea;
shelf; sky-other; skyscraper; snow; solid-other; stairs; stone; straw; structural-other; table; tent; textile-other;
towel; tree; vegetable; wall-brick; wall-concrete; wall-other; wall-panel; wall-stone; wall-tile; wall-wood;
water-other; waterdrops; window-blind; window-other; wood
""")
_FIRST_STUFF = 92


def coco_stuff_classes() -> dict[int, str]:
    """Returns the 171 classes of COCO-Stuff: number, counted from 1 as in COCO's files, -> name; objects first."""
    objects = coco_metadata()
    things = dict(zip(objects["thing_dataset_id_to_contiguous_id"], objects["thing_classes"]))
    return things | dict(enumerate(_STUFF, start=_FIRST_STUFF))
